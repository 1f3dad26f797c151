"""Quantization-aware training of a folded LMSWN: uint8 activations, int8 weights, a scale for each activation learned.

The rounding here is what ONNX Runtime does with the graph that export.py writes, so training sees the errors that will be made.
Chosen for the CPU, measured in README.md:

- Weights use 7 of 8 bits. Without VNNI instructions ONNX Runtime multiplies uint8 by int8 in pairs that saturate at 16 bits;
  2 * 255 * 64 does not, so the file gives the same picture on every CPU.
- Concatenation never rescales. What is concatenated is given one nominal scale; the true scales' ratios go into the columns of
  the 1x1 convolution that follows (which are rounded with the ratios in, here too).
- Zero points are 0 after ReLU and 128 elsewhere. A block's last convolution, which only a 1x1 reads, has a true zero point of
  its own; the export moves it into the two biases, exactly.
- The input's scale is 1/255, so 8-bit luma goes in without loss. The last convolution's result and the addition of the input
  to it stay float.
"""
import torch
import torch.nn as nn

import model

WEIGHT_MAX = 63  # see above: 7 bits
CLIPPED = 1e-4  # the share of values outside the first range; training moves it
CALIBRATION_TILES = 24
MIDDLE = 128  # zero point of signed activations


def round_through(x):
    """Rounds half to even, as ONNX does; the gradient passes as if it had not."""
    return x + (x.round() - x).detach()


class Rounding(nn.Module):
    """The activation scales of one network, and the rounding of its activations and weights."""

    def __init__(self, net, lr):
        """net: a Folded network; lr: uint8 tiles N x 1 x h x w, some of which set the first ranges."""
        super().__init__()
        self.blocks, self.kept, self.c = net.blocks, net.c // 4, net.c
        self.points = {}  # name -> zero point
        index = torch.linspace(0, len(lr) - 1, min(CALIBRATION_TILES, len(lr))).long()
        self.log_scale = nn.ParameterDict()
        with torch.no_grad():
            model.run(net.absorb_l2(), lr[index].float().cpu() / 255, see=self.measure)
        self.to(lr.device)

    def measure(self, name, value):
        if name in ("x", "up"):
            return value
        values = value.flatten().sort().values
        low, high = (float(values[int(share * (len(values) - 1))]) for share in (CLIPPED / 2, 1 - CLIPPED / 2))
        if low >= 0:  # after ReLU
            scale, point = high / 255, 0
        elif name.endswith(f".conv{model.STAGES}"):
            scale = (high - low) / 255
            point = round(-low / scale)
        else:
            scale, point = max(high, -low) / (255 - MIDDLE), MIDDLE
        self.points[name] = point
        self.log_scale[self.key(name)] = nn.Parameter(torch.tensor(max(scale, 1e-8)).log())
        return value

    @staticmethod
    def key(name):
        return name.replace(".", "_")  # a ParameterDict's names hold no dots

    def get_extra_state(self):
        return self.points

    def set_extra_state(self, state):
        self.points = state

    def scale(self, name):
        """Returns the activation's scale: its value is scale * (code - zero point)."""
        return self.log_scale[self.key(name)].exp()

    def columns(self, name):
        """Returns by how much the input channels of a convolution after a concatenation differ from the nominal scale.

        A vector of C_in ratios (true scale / nominal scale, that of the first), or None when the input has one scale.
        """
        if name.endswith(".fuse"):
            block, each = name.split(".")[0], self.kept
            parts = [f"{block}.conv{i}" for i in range(model.STAGES + 1)]
        elif name == "fuse":
            parts, each = [f"block{i}.out" for i in range(self.blocks)], self.c
        else:
            return None
        scales = torch.stack([self.scale(part) for part in parts])
        return (scales / scales[0]).repeat_interleave(each)

    def weight(self, name, weight):
        """Returns (codes, scale of each output channel) of a weight, its columns multiplied by columns(name)."""
        ratios = self.columns(name)
        if ratios is not None:
            weight = weight * ratios[:, None, None]
        scale = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-8) / WEIGHT_MAX
        return round_through(weight / scale), scale

    def weigh(self, name, weight):
        codes, scale = self.weight(name, weight)
        ratios = self.columns(name)
        return codes * scale if ratios is None else codes * scale / ratios[:, None, None]

    def see(self, name, value):
        if name == "x":
            return round_through((value * 255).clamp(0, 255)) / 255
        if name == "up":
            return value
        scale, point = self.scale(name), self.points[name]
        return (round_through(value / scale).clamp(-point, 255 - point)) * scale

    def run(self, net, x):
        """Runs a Folded network on N x 1 x H x W as the int8 graph will."""
        return model.run(net.absorb_l2(), x, self.see, self.weigh)
