"""LMSWN as it is trained, and its exact folding into what is shipped.

After "A multi-stage feature distillation-weighted lightweight image super-resolution network" (Yang, Che, Gao, Zhao, 2024), of
which only the abstract was at hand: widths, depths and kernel sizes are ours. Shapes are N x C x H x W; a picture is one luma
plane as coded, divided by 255.

The parallel branches of the trained form exist for the optimiser alone. LMSWN.fold() multiplies them out into 4B+5 plain
convolutions, differentiably, so training, quantization-aware training and export all run the same folded network (run);
LMSWN.forward is the definition that the folding is tested against.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

TIERS = {"s": (16, 3), "m": (32, 4), "l": (64, 6)}  # C channels, B blocks
STAGES = 3  # distilling stages of a block, before its last convolution


class SquareConv(nn.Module):
    """3x3 + 1x3 + 3x1 in parallel: extra weight for the middle row and column of one 3x3."""

    def __init__(self, cin, cout):
        super().__init__()
        self.square = nn.Conv2d(cin, cout, 3, padding=1)
        self.row = nn.Conv2d(cin, cout, (1, 3), padding=(0, 1), bias=False)
        self.column = nn.Conv2d(cin, cout, (3, 1), padding=(1, 0), bias=False)

    def forward(self, x):
        return self.square(x) + self.row(x) + self.column(x)

    def fold(self):
        weight = self.square.weight + F.pad(self.row.weight, (0, 0, 1, 1)) + F.pad(self.column.weight, (1, 1, 0, 0))
        return weight, self.square.bias


class PLM(nn.Module):
    """Pyramid-like module: 3x3, 5x5 and 7x7 side by side, fused by a 1x1."""

    def __init__(self, c):
        super().__init__()
        widths = ((c // 2, 3), (c // 4, 5), (c // 4, 7))
        self.branches = nn.ModuleList([nn.Conv2d(1, n, k, padding=k // 2) for n, k in widths])
        self.fuse = nn.Conv2d(c, c, 1)

    def forward(self, x):
        return self.fuse(F.relu(torch.cat([branch(x) for branch in self.branches], 1)))

    def fold(self):
        padded = [F.pad(b.weight, ((7 - b.kernel_size[0]) // 2,) * 4) for b in self.branches]
        return torch.cat(padded), torch.cat([b.bias for b in self.branches])


class MRDWM(nn.Module):
    """Multi-stage residual distillation-weighted module: out = l1 * fuse(distilled) + l2 * x."""

    def __init__(self, c):
        super().__init__()
        self.kept, self.passed = c // 4, c - c // 4  # the split after each stage: distilled, goes on
        self.stages = nn.ModuleList([SquareConv(c if i == 0 else self.passed, c) for i in range(STAGES)])
        self.points = nn.ModuleList([nn.Conv2d(self.kept, self.kept, 1) for _ in range(STAGES)])
        self.last = SquareConv(self.passed, self.kept)
        self.fuse = nn.Conv2d(self.kept * (STAGES + 1), c, 1)
        self.l1 = nn.Parameter(torch.ones(1))
        self.l2 = nn.Parameter(torch.ones(1))

    def forward(self, x):
        distilled, r = [], x
        for stage, point in zip(self.stages, self.points):
            y = stage(r)
            y = F.relu(y + F.pad(r, (0, 0, 0, 0, 0, y.shape[1] - r.shape[1])))
            distilled.append(point(y[:, :self.kept]))
            r = y[:, self.kept:]
        distilled.append(self.last(r))
        return self.l1 * self.fuse(torch.cat(distilled, 1)) + self.l2 * x

    @staticmethod
    def residual(weight):
        """Returns the kernel of weight's shape that passes each input channel on to the output channel of its number."""
        kernel = torch.zeros_like(weight)
        kernel[:, :, 1, 1].fill_diagonal_(1)
        return kernel

    def fold(self):
        """Yields (name, (weight, bias)) of the block's five convolutions; the residual becomes a one in a kernel's centre."""
        for i, stage in enumerate(self.stages):
            weight, bias = stage.fold()
            yield f"conv{i}", (weight + self.residual(weight), bias)
        yield f"conv{STAGES}", self.last.fold()
        fuse, bias, parts = self.fuse.weight[:, :, 0, 0], self.fuse.bias, []
        for i, point in enumerate(self.points):
            columns = fuse[:, i * self.kept:(i + 1) * self.kept]
            parts.append(columns @ point.weight[:, :, 0, 0])
            bias = bias + columns @ point.bias
        parts.append(fuse[:, STAGES * self.kept:])
        yield "fuse", ((torch.cat(parts, 1) * self.l1)[:, :, None, None], bias * self.l1)


class LMSWN(nn.Module):
    """The trained form of one tier at one scale."""

    def __init__(self, tier, scale):
        super().__init__()
        self.tier, self.scale = tier, scale
        c, blocks = TIERS[tier]
        self.head = PLM(c)
        self.body = nn.ModuleList([MRDWM(c) for _ in range(blocks)])
        self.fuse = nn.Conv2d(c * blocks, c, 1)
        self.conv = SquareConv(c, c)
        self.up = SquareConv(c, scale * scale)

    def forward(self, x):
        """Maps N x 1 x H x W to N x 1 x sH x sW, branch by branch as the paper has it; run(fold()) is the same, faster."""
        f = o = self.head(x)
        outs = []
        for block in self.body:
            o = block(o)
            outs.append(o)
        f = self.conv(F.relu(self.fuse(torch.cat(outs, 1)))) + f
        return F.pixel_shuffle(self.up(f) + x, self.scale)

    def fold(self):
        """Returns the Folded network that computes the same; gradients flow through it to the branches."""
        convs = {"head": self.head.fold(), "head_fuse": (self.head.fuse.weight, self.head.fuse.bias)}
        for i, block in enumerate(self.body):
            convs.update((f"block{i}.{name}", value) for name, value in block.fold())
        convs["fuse"] = self.fuse.weight, self.fuse.bias
        convs["conv"], convs["up"] = self.conv.fold(), self.up.fold()
        return Folded(self.tier, self.scale, convs, [block.l2 for block in self.body])

    def unfold(self, net):
        """Takes the weights of a Folded network of this tier and scale, so that fold() returns the same network again.

        Each folded kernel goes whole into one of the branches that it may have come from; the others begin at zero.
        """
        with torch.no_grad():
            for name, value in self.named_parameters():
                if ".row." in name or ".column." in name:
                    value.zero_()
            def give(conv, weight, bias):
                conv.weight.copy_(weight)
                conv.bias.copy_(bias)

            weight, bias = net.convs["head"]
            at = 0
            for branch in self.head.branches:
                n, k = branch.weight.shape[0], branch.kernel_size[0]
                middle = slice((7 - k) // 2, (7 + k) // 2)
                give(branch, weight[at:at + n, :, middle, middle], bias[at:at + n])
                at += n
            give(self.head.fuse, *net.convs["head_fuse"])
            for i, block in enumerate(self.body):
                for n, stage in enumerate(block.stages):
                    weight, bias = net.convs[f"block{i}.conv{n}"]
                    give(stage.square, weight - block.residual(weight), bias)
                give(block.last.square, *net.convs[f"block{i}.conv{STAGES}"])
                for point in block.points:
                    give(point, torch.eye(block.kept)[:, :, None, None], torch.zeros(block.kept))
                give(block.fuse, *net.convs[f"block{i}.fuse"])
                block.l1.fill_(1)
                block.l2.copy_(net.l2[i])
            give(self.fuse, *net.convs["fuse"])
            give(self.conv.square, *net.convs["conv"])
            give(self.up.square, *net.convs["up"])


class Folded:
    """Plain convolutions by name: head (7x7), head_fuse, block<i>.conv0..3, block<i>.fuse, fuse, conv, up; and each block's l2.

    l2 is None once absorbed.
    """

    def __init__(self, tier, scale, convs, l2):
        self.tier, self.scale, self.convs, self.l2 = tier, scale, convs, l2
        self.c, self.blocks = TIERS[tier]

    def detach(self):
        """Returns a copy without gradients, on the CPU."""
        convs = {name: (weight.detach().cpu(), bias.detach().cpu()) for name, (weight, bias) in self.convs.items()}
        return Folded(self.tier, self.scale, convs, [v.detach().cpu() for v in self.l2])

    def absorb_l2(self):
        """Returns the same network with every l2 equal to 1, so that a block ends in a plain addition.

        A block's output is only ever read by convolutions and by the next block's l2 * x, so it may be carried divided by
        c_b = l2_1 * ... * l2_b, if what writes it is divided and what reads it multiplied. Fails with ValueError when an l2
        is so close to zero that the division would lose the float's precision.
        """
        convs, carried = dict(self.convs), [torch.ones(1)]
        for i, l2 in enumerate(self.l2):
            if abs(float(l2.detach())) < 1e-3:
                raise ValueError(f"l2 of block {i} is {float(l2.detach()):.1e}, too small to divide by: train on, or from "
                                 "another seed")
            read, write = carried[-1].to(l2.device), carried[-1].to(l2.device) * l2
            weight, bias = convs[f"block{i}.conv0"]
            convs[f"block{i}.conv0"] = weight * read, bias
            weight, bias = convs[f"block{i}.fuse"]
            convs[f"block{i}.fuse"] = weight / write, bias / write
            carried.append(write)
        weight, bias = convs["fuse"]
        columns = torch.cat([write.expand(self.c) for write in carried[1:]])
        convs["fuse"] = weight * columns[:, None, None], bias
        return Folded(self.tier, self.scale, convs, None)


def run(net, x, see=lambda name, value: value, weigh=lambda name, weight: weight):
    """Runs a Folded network on N x 1 x H x W.

    see(name, value) may replace every activation and weigh(name, weight) every weight: quantization-aware training
    rounds both there. The names are those of the convolutions, and "x", block<i>.out and skip.
    """
    def conv(name, value, relu=False):
        weight, bias = net.convs[name]
        y = F.conv2d(value, weigh(name, weight), bias, padding=weight.shape[2] // 2)
        return see(name, F.relu(y) if relu else y)

    kept = net.c // 4
    first = o = conv("head_fuse", conv("head", see("x", x), relu=True))
    outs = []
    for i in range(net.blocks):
        distilled, r = [], o
        for stage in range(STAGES):
            y = conv(f"block{i}.conv{stage}", r, relu=True)
            distilled.append(y[:, :kept])
            r = y[:, kept:]
        distilled.append(conv(f"block{i}.conv{STAGES}", r))
        fused = conv(f"block{i}.fuse", torch.cat(distilled, 1))
        o = see(f"block{i}.out", fused + (o if net.l2 is None else net.l2[i] * o))
        outs.append(o)
    f = conv("fuse", torch.cat(outs, 1), relu=True)
    f = see("skip", conv("conv", f) + first)
    return F.pixel_shuffle(conv("up", f) + x, net.scale)
