"""From a folder of pictures to a model:

    python train.py PICTURES --tier s --scale 2 --flavour video --out runs/s-x2-video

Prints progress, keeps a checkpoint in --out every two minutes and when stopped (Ctrl+C or SIGTERM), and goes on from it when
the same command is given again. At the end the model lies in --out as ONNX, with its metadata. --precision int8 with --start
CHECKPOINT fine-tunes a trained float model under quantization and writes the int8 file.
"""
import argparse
import math
import os
import signal
import sys
import time

import torch
import torch.nn.functional as F

import data
import export
import model
import quantize

CLEAN_SHARE = 0.25  # of a video batch: keeps what the network knows about input that is nearly uncompressed
WARM_UP = 200  # iterations over which the learning rate rises; Adam's moments start empty
LAST_RATE = 0.01  # of --lr, at the end of the cosine
GRADIENT_NORM = 0.5
SAVE_SECONDS = 120
SHOW = 200  # iterations between progress lines
SCORE = 2000  # iterations between scores on the held-out pairs
CHARBONNIER = 1e-3
SOLVE_BATCHES, SOLVE_RIDGE = 24, 1e-6  # some 700,000 LR pixels


def psnr(upscale, lr, hr, scale, count=96):
    """Returns the mean luma PSNR in dB over count tiles spread over the set, scale pixels cut from each border."""
    index = torch.linspace(0, len(lr) - 1, min(count, len(lr))).long()
    total = 0.0
    with torch.no_grad():
        for i in index.split(16):
            x, y = lr[i].float() / 255, hr[i].float() / 255
            error = (upscale(x).float() - y)[:, :, scale:-scale, scale:-scale].square().mean((1, 2, 3))
            total += (-10 * error.clamp(min=1e-10).log10()).sum().item()  # 100 dB at most, for a flat tile
    return total / len(index)


def loss_of(kind, y, target):
    difference = y.float() - target
    if kind == "l1":
        return difference.abs().mean()
    if kind == "mse":
        return difference.square().mean() * 10  # to the size of the others, so that the same clip and rate fit
    return (difference.square() + CHARBONNIER ** 2).sqrt().mean()


def given_weights(path):
    """Returns the dict of a checkpoint, or what a float .onnx file holds of one: tier, scale, model and history.

    Exits with a sentence when the file is not a float LMSWN.
    """
    if not path.endswith(".onnx"):
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        folded, about = export.read_float(path)
    except ValueError as error:
        sys.exit(str(error))
    net = model.LMSWN(folded.tier, folded.scale)
    net.unfold(folded)
    return {"tier": folded.tier, "scale": folded.scale, "model": net.state_dict(), "history": about["training"].split("; then ")}


def start_weights(net, path):
    """Loads weights from a checkpoint or an .onnx file (all but the last layer from another scale) and returns its dict.

    Exits with a sentence when it is of another tier.
    """
    given = given_weights(path)
    if given["tier"] != net.tier:
        sys.exit(f"{path} holds tier {given['tier']}, not {net.tier}: start from a checkpoint of the same tier")
    weights = given["model"]
    if given["scale"] != net.scale:
        weights = {name: value for name, value in weights.items() if not name.startswith("up.")}
    net.load_state_dict(weights, strict=given["scale"] == net.scale)
    return given


def solve_last(net, draw):
    """Sets the last layer to the least-squares answer for the features that the layers before it give.

    That layer is linear in them, so one small system of equations (9C+1 unknowns for each of the s*s outputs) finds at once
    what descent would need thousands of steps for. draw(generator, count) returns (x, target) batches.
    """
    generator = torch.Generator().manual_seed(0)
    squares, products, seen = 0, 0, {}
    with torch.no_grad():
        for _ in range(SOLVE_BATCHES):
            x, target = draw(generator, 16)
            model.run(net.fold(), x, see=lambda name, value: seen.setdefault(name, value))
            f = seen["skip"]
            seen.clear()
            windows = F.unfold(f, 3, padding=1).transpose(0, 1).flatten(1).double()
            windows = torch.cat((windows, torch.ones_like(windows[:1])))
            wanted = (F.pixel_unshuffle(target, net.scale) - x).transpose(0, 1).flatten(1).double()
            squares, products = squares + windows @ windows.T, products + windows @ wanted.T
        ridge = SOLVE_RIDGE * squares.diagonal().mean() * torch.eye(len(squares), device=squares.device)
        answer = torch.linalg.solve(squares + ridge, products).float().T
        net.up.square.weight.copy_(answer[:, :-1].reshape(net.up.square.weight.shape))
        net.up.square.bias.copy_(answer[:, -1])
        net.up.row.weight.zero_()
        net.up.column.weight.zero_()


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="a folder of pictures, each at least 288x288")
    parser.add_argument("--tier", choices=model.TIERS, default="s")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), default=2)
    parser.add_argument("--flavour", choices=("clean", "video"), default="video")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--out", required=True, help="folder for the checkpoint, the log and the model")
    parser.add_argument("--start", help="checkpoint or float .onnx file to start from, of the same tier; of any scale")
    parser.add_argument("--version", default="1.0.0", help="the model's version, for its metadata")
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=math.inf,
                        help="end after this wall-clock time if --iterations are not reached by then; the learning rate follows")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48, help="LR pixels; a tile has 288 divided by the scale")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--loss", choices=("charbonnier", "l1", "mse"), default="charbonnier")
    parser.add_argument("--clips", type=int, default=2400, help="synthetic clips for the video flavour, four frames each")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--bf16", choices=("auto", "on", "off"), default="auto", help="auto: for float models on CUDA and on CPUs with AVX-512 BF16")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch decides)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.precision == "int8" and not args.start:
        parser.error("--precision int8 fine-tunes a trained model: give its checkpoint with --start")
    return args


class Run:
    """One training run: the network, what it is trained on, and how far it has come."""

    def __init__(self, args):
        self.args = args
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
        # Rounding to int8 codes is trained in float32: bf16 cannot tell the codes apart.
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.bf16 = args.bf16 == "on" or args.bf16 == "auto" and fast and args.precision == "fp32"
        os.makedirs(args.out, exist_ok=True)
        self.log = open(os.path.join(args.out, "log.txt"), "a", buffering=1)
        self.checkpoint = os.path.join(args.out, "checkpoint.pt")
        kept = None
        if os.path.exists(self.checkpoint):
            kept = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            if (kept["tier"], kept["scale"], kept["flavour"]) != (args.tier, args.scale, args.flavour):
                sys.exit(f"{self.checkpoint} is of another model: give another --out, or delete it")

        sets, self.sha256 = data.build(args.pictures, args.scale, args.flavour, args.clips, os.path.join(args.out, "pairs.npz"))
        self.sets = {name: value.to(self.device) for name, value in sets.items()}

        self.net = model.LMSWN(args.tier, args.scale)
        given = start_weights(self.net, args.start) if args.start else {}
        self.history = given.get("history", [])  # one line for each run that these weights went through
        self.net = self.net.to(device=self.device, memory_format=torch.channels_last)
        if given and given["scale"] != args.scale and kept is None:
            solve_last(self.net, self.draw)
        parameters, self.rounding = list(self.net.parameters()), None
        if args.precision == "int8":
            self.rounding = quantize.Rounding(self.net.fold().detach(), self.sets["held_lr"])
            parameters += self.rounding.parameters()
        self.optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.99))

        self.iteration, self.seconds = 0, 0.0
        if kept is not None:
            self.net.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            if self.rounding is not None:
                self.rounding.load_state_dict(kept["rounding"])
            self.iteration, self.seconds, self.history = kept["iteration"], kept["seconds"], kept["history"]
            self.say(f"going on from {self.checkpoint}, iteration {self.iteration}")

    def say(self, text):
        print(text, flush=True)
        print(time.strftime("%F %T"), text, file=self.log)

    def draw(self, generator, count):
        """Returns a batch (x, target) of count patches, floats of 0..1."""
        sets, patch = self.sets, self.args.patch
        if self.args.flavour == "clean":
            return data.patches(sets["clean_lr"], sets["clean_hr"], count, patch, generator)
        clean = round(count * CLEAN_SHARE)
        mixed = (data.patches(sets["clean_lr"], sets["clean_hr"], clean, patch, generator),
                 data.patches(sets["video_lr"], sets["video_hr"], count - clean, patch, generator))
        return tuple(torch.cat(pair).contiguous(memory_format=torch.channels_last) for pair in zip(*mixed))

    def upscale(self, x):
        """Runs the folded network (rounded as int8 will be, in an int8 run), with gradients."""
        folded = self.net.fold()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return model.run(folded, x) if self.rounding is None else self.rounding.run(folded, x)

    def score(self):
        """Returns the mean PSNR in dB on the held-out pairs."""
        return psnr(self.upscale, self.sets["held_lr"], self.sets["held_hr"], self.args.scale)

    def save(self):
        state = {"tier": self.args.tier, "scale": self.args.scale, "flavour": self.args.flavour,
                 "model": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "iteration": self.iteration,
                 "seconds": self.seconds, "history": self.history, "data_sha256": self.sha256}
        if self.rounding is not None:
            state["rounding"] = self.rounding.state_dict()
        torch.save(state, self.checkpoint + ".partial")
        os.replace(self.checkpoint + ".partial", self.checkpoint)

    def done(self):
        """Returns the share of the run that is behind: of --iterations or of --minutes, whichever is further on."""
        return max(self.iteration / self.args.iterations, self.seconds / 60 / self.args.minutes)

    def step(self, generator):
        """Takes one step of the optimizer and returns its loss."""
        args = self.args
        rate = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * self.done())) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = args.lr * rate * min(1, (self.iteration + 1) / WARM_UP)
        # Each step has a seed of its own, so that a resumed run sees what an unbroken one would.
        generator.manual_seed(args.seed * 1_000_003 + self.iteration)
        x, target = self.draw(generator, args.batch)
        loss = loss_of(args.loss, self.upscale(x), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.iteration += 1
        return loss.detach()

    def train(self):
        """Trains until the end or until SIGINT or SIGTERM; returns whether the end was reached. Saves either way."""
        stop = []
        before = {number: signal.signal(number, lambda *_: stop.append(True)) for number in (signal.SIGINT, signal.SIGTERM)}
        generator, losses = torch.Generator(), []
        saved, begin = time.monotonic(), time.monotonic() - self.seconds
        while not stop and self.done() < 1:
            losses.append(self.step(generator))
            self.seconds = time.monotonic() - begin
            if self.iteration % SHOW == 0:
                speed = self.iteration / self.seconds
                left = min((self.args.iterations - self.iteration) / speed, self.args.minutes * 60 - self.seconds) / 60
                self.say(f"{self.iteration:7d}  {100 * self.done():5.1f} %  loss {torch.stack(losses).mean().item():.5f}  "
                         f"{speed:.1f} it/s  {left:.0f} min left")
                losses.clear()
            if self.iteration % SCORE == 0:
                self.say(f"{self.iteration:7d}  held out {self.score():.3f} dB")
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        for number, handler in before.items():
            signal.signal(number, handler)  # what follows may be interrupted in the ordinary way
        if not stop:
            args = self.args
            summary = (f"{self.iteration} iterations of {args.flavour} {args.precision} at x{args.scale}, batch {args.batch}, "
                       f"patch {args.patch}, {args.loss}, lr {args.lr:g}")
            if self.history[-1:] != [summary]:  # as it is when a finished run is started again
                self.history = self.history + [summary]
        self.save()
        return not stop


def main(argv=None):
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    run = Run(args)
    run.say(f"{args.tier} x{args.scale} {args.flavour} {args.precision} on {run.device}, PyTorch {torch.__version__}: "
            f"held out {run.score():.3f} dB at the start")
    if not run.train():
        run.say(f"stopped at iteration {run.iteration}: the same command goes on from here")
        return
    run.say(f"done: {run.iteration} iterations, held out {run.score():.3f} dB")
    path = export.write(run.net.fold().detach(), run.rounding, args.out, args.flavour, args.version, "; then ".join(run.history),
                        run.sha256)
    run.say(f"wrote {path}")


if __name__ == "__main__":
    main()
