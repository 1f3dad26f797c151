"""Writes a folded LMSWN as ONNX: input x, output y, float32, dynamic n, h, w, opset 13.

The graphs are written node by node, not traced: the file holds what the runtime must do and nothing else, quantized or not.

    python export.py CHECKPOINT --out FOLDER --version 1.0.0
"""
import argparse
import os

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import metadata
import model
import quantize

OPSET = 13
IR_VERSION = 8


class Graph:
    """A folded network as ONNX nodes, in float32. The methods that add nodes return the name of their result."""

    def __init__(self, net):
        self.net, self.nodes, self.constants = net.absorb_l2(), [], {}

    def constant(self, name, array):
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def plain_conv(self, name, value, weight, bias, relu):
        k = self.net.convs[name][0].shape[2]
        y = self.node("Conv", [value, weight, bias], name, kernel_shape=[k, k], pads=[k // 2] * 4)
        return self.node("Relu", [y], name + ".relu") if relu else y

    def conv(self, name, value, relu=False):
        weight, bias = (self.constant(f"{name}.{kind}", t.numpy()) for kind, t in zip(("weight", "bias"), self.net.convs[name]))
        return self.plain_conv(name, value, weight, bias, relu)

    def add(self, name, a, b):
        return self.node("Add", [a, b], name)

    def cut(self, value, begin, end):
        """Slices the channels begin..end-1."""
        bounds = [self.constant(f"at{n}", np.array([n], np.int64)) for n in (begin, end)]
        return self.node("Slice", [value, *bounds, self.constant("axis1", np.array([1], np.int64))], f"{value}[{begin}:{end}]")

    def join(self, name, values):
        """Concatenates channels."""
        return self.node("Concat", values, name, axis=1)

    def write(self):
        """Returns the ONNX model: what model.run computes, as nodes."""
        kept = self.net.c // 4
        first = o = self.conv("head_fuse", self.conv("head", "x", relu=True))
        outs = []
        for i in range(self.net.blocks):
            distilled, r = [], o
            for stage in range(model.STAGES):
                y = self.conv(f"block{i}.conv{stage}", r, relu=True)
                distilled.append(self.cut(y, 0, kept))
                r = self.cut(y, kept, self.net.c)
            distilled.append(self.conv(f"block{i}.conv{model.STAGES}", r))
            o = self.add(f"block{i}.out", self.conv(f"block{i}.fuse", self.join(f"block{i}.cat", distilled)), o)
            outs.append(o)
        f = self.conv("fuse", self.join("cat", outs), relu=True)
        f = self.add("skip", self.conv("conv", f), first)
        # The input joins each of the s*s channels before they become pixels: the global skip, float in every precision.
        total = self.node("Add", [self.conv("up", f), "x"], "sum")
        self.node("DepthToSpace", [total], "y", blocksize=self.net.scale)
        s = self.net.scale
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "h", "w"])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, f"{s}*h", f"{s}*w"])
        graph = helper.make_graph(self.nodes, "lmswn", [x], [y], list(self.constants.values()))
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                                 producer_name="upscaler/train")
        onnx.checker.check_model(made)
        return made


class Int8Graph(Graph):
    """The same with the scales of a quantize.Rounding: uint8 activations, int8 weights, int32 biases.

    Convolutions and additions stand between DequantizeLinear and QuantizeLinear, for a runtime to compute on the codes; slices
    and concatenations move codes and never rescale them. Each activation has a true scale (what its values mean) and a nominal
    one (what the file says); the nominal one is shared by what is concatenated, and the difference is worked into the weights.
    """

    def __init__(self, net, rounding):
        super().__init__(net)
        self.rounding = rounding.cpu()
        self.true = {name: float(rounding.scale(name).detach()) for name in rounding.points} | {"x": 1 / 255}
        self.nominal, self.points = dict(self.true), dict(rounding.points) | {"x": 0}
        for i in range(net.blocks):
            for stage in range(model.STAGES + 1):
                self.nominal[f"block{i}.conv{stage}"] = self.true[f"block{i}.conv0"]
            self.nominal[f"block{i}.out"] = self.true["block0.out"]
            self.points[f"block{i}.conv{model.STAGES}"] = 0  # worked into the biases
        self.activation = {}  # name of codes -> the activation whose scale and zero point they have

    def quantize(self, name, value):
        codes = self.node("QuantizeLinear", [value, self.constant(f"{name}.scale", np.float32(self.nominal[name])),
                                             self.constant(f"{name}.zero", np.uint8(self.points[name]))], f"{name}.codes")
        self.activation[codes] = name
        return codes

    def dequantize(self, codes, reader, stretch=1.0):
        """Dequantizes codes for one reader (a runtime fuses it with that), at stretch times their nominal scale."""
        name = self.activation[codes]
        scale = f"{name}.scale"
        if abs(stretch - 1) > 1e-9:
            scale = self.constant(f"{codes} for {reader}.scale", np.float32(self.nominal[name] * stretch))
        return self.node("DequantizeLinear", [codes, scale, f"{name}.zero"], f"{codes} for {reader}")

    def dequantize_constant(self, name, codes, scales):
        inputs = [self.constant(name, codes), self.constant(f"{name}.scale", scales.astype(np.float32)),
                  self.constant(f"{name}.zero", np.zeros(len(codes), codes.dtype))]
        return self.node("DequantizeLinear", inputs, f"{name}.real", axis=0)

    def conv(self, name, value, relu=False):
        if value == "x":
            value = self.quantize("x", "x")
        source = self.activation[value]
        codes, scales = (t.detach().numpy().astype(np.float64) for t in self.rounding.weight(name, self.net.convs[name][0]))
        scales, bias = scales.ravel(), self.net.convs[name][1].numpy().astype(np.float64)
        # A block's last convolution writes codes that begin at its lowest value: raised here, lowered again where they are read.
        if name.endswith(f".conv{model.STAGES}"):
            bias = bias + self.rounding.points[name] * self.true[name]
        if name.endswith(".fuse"):
            last = name.replace("fuse", f"conv{model.STAGES}")
            kept = self.net.c // 4
            bias = bias - codes[:, -kept:, 0, 0].sum(1) * scales * self.rounding.points[last] * self.true[source]
        # From nominal units of the input to nominal units of the output. After a concatenation the columns hold the ratios to
        # the first part's true scale; otherwise the input has just one.
        wider = self.nominal.get(name, 1) / self.true.get(name, 1)
        scales, bias = scales * self.true[source] / self.nominal[source] * wider, bias * wider
        unit = scales * self.nominal[source]
        weight = self.dequantize_constant(f"{name}.weight", codes.astype(np.int8), scales)
        bias = self.dequantize_constant(f"{name}.bias", np.rint(bias / unit).astype(np.int32), unit)
        y = self.plain_conv(name, self.dequantize(value, name), weight, bias, relu)
        return y if name == "up" else self.quantize(name, y)

    def add(self, name, a, b):
        wider = self.nominal[name] / self.true[name]
        parts = [self.dequantize(codes, name, self.true[of] / self.nominal[of] * wider)
                 for codes, of in ((codes, self.activation[codes]) for codes in (a, b))]
        return self.quantize(name, self.node("Add", parts, name))

    def cut(self, value, begin, end):
        codes = super().cut(value, begin, end)
        self.activation[codes] = self.activation[value]
        return codes

    def join(self, name, values):
        first = self.activation[values[0]]
        for value in values:
            same = self.activation[value]
            assert (self.nominal[same], self.points[same]) == (self.nominal[first], self.points[first])
        codes = super().join(name, values)
        self.activation[codes] = first
        return codes


def write(net, rounding, folder, flavour, version, training, data_sha256):
    """Writes a Folded network (with a quantize.Rounding: as int8) into folder under its own name, and returns the path."""
    made = (Graph(net) if rounding is None else Int8Graph(net, rounding)).write()
    path = os.path.join(folder, metadata.stamp(made, flavour, version, training, data_sha256) + ".onnx")
    onnx.save(made, path)
    return path


def read(checkpoint):
    """Returns (Folded network, quantize.Rounding or None, the checkpoint's dict) of a file that train.py has kept."""
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = model.LMSWN(kept["tier"], kept["scale"])
    net.load_state_dict(kept["model"])
    folded, rounding = net.fold().detach(), None
    if "rounding" in kept:
        blank = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
        rounding = quantize.Rounding(folded, blank)
        rounding.load_state_dict(kept["rounding"])
    return folded, rounding, kept


def read_float(path):
    """Returns (Folded network, metadata) of a float32 .onnx file; raises ValueError for one of another precision.

    The convolutions are known by their order and an l2 that is still multiplied with by its node, so that files of other
    exporters are read, too.
    """
    made = onnx.load(path)
    about = metadata.read(made) | metadata.from_graph(made)
    if about["precision"] != "fp32":
        raise ValueError(f"{path} is {about['precision']}: give the float32 model that it was made from")
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in made.graph.initializer}
    net = model.LMSWN(about["tier"], int(about["scale"]))
    convs = [tuple(values[name] for name in node.input[1:]) for node in made.graph.node if node.op_type == "Conv"]
    l2 = [values[name] for node in made.graph.node if node.op_type == "Mul" for name in node.input if name in values]
    folded = net.fold().detach()
    folded.convs = dict(zip(folded.convs, convs, strict=True))
    folded.l2 = [value.reshape(1) for value in l2] or [torch.ones(1)] * folded.blocks
    return folded, about


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--out", required=True)
    parser.add_argument("--version", required=True)
    args = parser.parse_args()
    net, rounding, kept = read(args.checkpoint)
    training = "; then ".join(kept["history"]) or f"{kept['iteration']} iterations, not finished"
    print(write(net, rounding, args.out, kept["flavour"], args.version, training, kept["data_sha256"]))


if __name__ == "__main__":
    main()
