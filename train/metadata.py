"""What an .onnx file says about itself, read by the server instead of the file name.

Everything that the graph already holds (scale, receptive field, precision, tier, parameters) is computed from the graph, so
that the metadata cannot contradict it; only what a graph cannot know (flavour, version, licence, training) is given.

    python metadata.py show  models/*.onnx
    python metadata.py stamp given.onnx models/lmswn-s-x2-clean.onnx --flavour clean --version 1 --training "..."
"""
import argparse
import json
import os

import onnx
from onnx import numpy_helper

LICENSE = "Apache-2.0"
TIERS = {(16, 3): "s", (32, 4): "m", (64, 6): "l"}  # (C, B)
KEYS = ("name", "version", "scale", "tier", "flavour", "precision", "receptive_field", "parameters", "license", "training",
        "data_sha256")


def from_graph(model):
    """Returns the metadata that follows from the graph alone: scale, tier, precision, receptive_field, parameters.

    receptive_field is in input pixels, each way: the longest path from input to output, each convolution adding (k-1)/2.
    parameters counts the weights and biases of the folded convolutions (the form that is shipped), not scales and zero points.
    Raises ValueError for a graph that is not an LMSWN of a known tier.
    """
    graph = model.graph
    values = {t.name: t for t in graph.initializer}
    behind_dequantize = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    reach = {graph.input[0].name: 0}  # value name -> pixels each way it depends on
    scale, parameters, channels, depth, fp16 = 0, 0, 0, 0, False
    for node in graph.node:  # ONNX requires topological order
        far = max((reach[name] for name in node.input if name in reach), default=None)
        if node.op_type == "Conv":
            tensors = [values[behind_dequantize.get(name, name)] for name in node.input[1:]]
            kernel = tensors[0].dims[2]
            far += (kernel - 1) // 2
            depth += kernel == 3
            channels = channels or tensors[0].dims[0]
            parameters += sum(numpy_helper.to_array(t).size for t in tensors)
            fp16 = fp16 or tensors[0].data_type == onnx.TensorProto.FLOAT16
        elif node.op_type == "DepthToSpace":
            scale = onnx.helper.get_node_attr_value(node, "blocksize")
        if far is not None:
            reach.update((name, far) for name in node.output)
    blocks = (depth - 2) // 4  # four 3x3 a block, two after the last
    if scale == 0 or (channels, blocks) not in TIERS:
        raise ValueError(f"not an LMSWN graph of a known tier: C={channels}, B={blocks}, scale={scale}")
    int8 = any(n.op_type == "QuantizeLinear" for n in graph.node)
    return {
        "scale": str(scale),
        "tier": TIERS[channels, blocks],
        "precision": "int8" if int8 else "fp16" if fp16 else "fp32",
        "receptive_field": str(reach[graph.output[0].name]),
        "parameters": str(parameters),
    }


def stamp(model, flavour, version, training, data_sha256, license=LICENSE):
    """Sets the model's metadata_props, replacing all that were there, and returns the model's name, as in lmswn-s-x2-video."""
    known = from_graph(model)
    name = f"lmswn-{known['tier']}-x{known['scale']}-{flavour}"
    if known["precision"] != "fp32":
        name += "-" + known["precision"]
    fields = dict(known, name=name, version=version, flavour=flavour, license=license, training=training,
                  data_sha256=data_sha256)
    onnx.helper.set_model_props(model, {key: fields[key] for key in KEYS})
    return name


def read(model):
    """Returns the model's metadata_props as a dict of strings."""
    return {p.key: p.value for p in model.metadata_props}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print the metadata of model files as JSON")
    show.add_argument("files", nargs="+")
    put = commands.add_parser("stamp", help="copy a model file, with metadata")
    put.add_argument("source")
    put.add_argument("target", help="its name must be the model's own, so that nobody is misled")
    put.add_argument("--flavour", required=True, choices=("clean", "video"))
    put.add_argument("--version", required=True)
    put.add_argument("--training", required=True, help="one line")
    put.add_argument("--data-sha256", default="unknown", help="SHA-256 of the list of training pictures (default: unknown)")
    args = parser.parse_args()
    if args.command == "show":
        for path in args.files:
            print(json.dumps(dict(file=path, **read(onnx.load(path))), indent=2))
        return
    model = onnx.load(args.source)
    name = stamp(model, args.flavour, args.version, args.training, args.data_sha256)
    if os.path.basename(args.target) != name + ".onnx":
        parser.error(f"the graph is {name}: write it to {name}.onnx")
    onnx.save(model, args.target)


if __name__ == "__main__":
    main()
