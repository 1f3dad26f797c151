"""Runs OpenVINO and ncnn for bench/engines, one thread each, whenever it is told to.

    python peers.py WIDTH HEIGHT PICTURE FOLDER MODEL.onnx...

PICTURE holds the luma samples, one byte each. Prints one line of JSON that names what it can run, and what not and why. Then, for
each number of an engine on standard input, it runs that once and prints the processor time of it in seconds. Each engine's
picture is written to FOLDER. Reading and writing the picture is not part of the time.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import ncnn
import numpy as np
import openvino


def open_openvino(model, width, height):
    """Returns a function from a picture (float32, 0..1) to the upscaled one. A quantized model runs in its int8 kernels."""
    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([1, 1, height, width])
    compiled = core.compile_model(network, "CPU", {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False})
    request = compiled.create_infer_request()
    return lambda picture: request.infer([picture[None, None]], share_inputs=True, share_outputs=True)[0][0, 0]


def open_ncnn(model, width, height, folder):
    """As open_openvino. pnnx, which comes from ncnn's makers, turns the ONNX file into ncnn's own."""
    base = os.path.join(folder, os.path.basename(model).removesuffix(".onnx"))
    param, weights = base + ".param", base + ".bin"
    tool = os.path.join(importlib.util.find_spec("pnnx").submodule_search_locations[0], "pnnx")  # importing it would ask for torch
    done = subprocess.run(
        [tool, model, f"inputshape=[1,1,{height},{width}]f32", f"ncnnparam={param}", f"ncnnbin={weights}",
         f"ncnnpy={base}.ncnn.py", f"pnnxparam={base}.pnnx.param", f"pnnxbin={base}.pnnx.bin", f"pnnxpy={base}.pnnx.py",
         f"pnnxonnx={base}.pnnx.onnx"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pnnx fails: {done.stderr.strip().splitlines()[-1:]}")
    with open(param) as file:
        lines = file.read().splitlines()
    known = {"Input", "Split", "Convolution", "Slice", "Concat", "BinaryOp", "ReLU", "PixelShuffle"}
    for i, line in enumerate(lines[2:], 2):
        words = line.split()
        if words[0] == "DepthToSpace":  # pnnx leaves it as it is; to one plane it is ncnn's PixelShuffle
            factor = round(int(blocks(lines[:i])) ** 0.5)
            lines[i] = " ".join(["PixelShuffle", *words[1:6], f"0={factor}"])
        elif words[0] not in known:
            raise RuntimeError(f"pnnx leaves {words[0]}, which ncnn has not")
    with open(param, "w") as file:
        file.write("\n".join(lines) + "\n")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    if net.load_param(param) or net.load_model(weights):
        raise RuntimeError("ncnn does not load what pnnx made")

    def run(picture):
        extractor = net.create_extractor()
        extractor.input("in0", picture)
        return extractor.extract("out0")[1]

    return run


def blocks(lines):
    """Returns the output channels of the last convolution."""
    last = [line for line in lines if line.startswith("Convolution")][-1]
    return next(word[2:] for word in last.split() if word.startswith("0="))


def main():
    width, height, path, folder, *models = sys.argv[1:]
    models = [os.path.abspath(model) for model in models]  # pnnx runs in folder, for what it leaves beside
    width, height = int(width), int(height)
    picture = np.fromfile(path, np.uint8).reshape(height, width).astype(np.float32) / 255
    engines, missing = [], []
    for model in models:
        name = os.path.basename(model).removesuffix(".onnx")
        for engine, opened, source in (
                (f"OpenVINO {openvino.__version__.split('-')[0]}", lambda m: open_openvino(m, width, height), picture),
                (f"ncnn {ncnn.__version__}", lambda m: open_ncnn(m, width, height, folder), ncnn.Mat(picture[None]).clone())):
            if engine.startswith("ncnn") and name.endswith("int8"):
                continue  # said once, below
            try:
                run = opened(model)
                output = os.path.join(folder, f"{len(engines)}.raw")
                result = np.array(run(source)).reshape(-1)
                np.clip(np.rint(result * 255), 0, 255).astype(np.uint8).tofile(output)
            except Exception as error:  # whatever the peer does not like is its column's text
                missing.append(f"{engine} with {name}: {error}")
                continue
            engines.append((run, source, {"engine": engine, "model": name, "output": output}))
    if any(name.endswith("int8.onnx") for name in models):
        missing.append(f"ncnn {ncnn.__version__} with int8: its wheel has no tool to make its own int8 files, and pnnx turns no "
                       "QuantizeLinear into them")
    print(json.dumps({"engines": [e[2] for e in engines], "missing": missing}), flush=True)
    for line in sys.stdin:
        run, source, _ = engines[int(line)]
        start = time.process_time()
        run(source)
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
