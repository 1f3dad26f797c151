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


def psnr(net, run, lr, hr, count=96):
    """Returns the mean luma PSNR in dB over count held-out tiles spread over the set, scale pixels cut from each border."""
    index = torch.linspace(0, len(lr) - 1, min(count, len(lr))).long()
    total = 0.0
    with torch.no_grad():
        for i in index.split(16):
            x, y, s = lr[i].float() / 255, hr[i].float() / 255, net.scale
            error = (run(x).float() - y)[:, :, s:-s, s:-s].square().mean((1, 2, 3))
            total += (-10 * error.log10()).sum().item()
    return total / len(index)


def loss_of(kind, y, target):
    difference = y.float() - target
    if kind == "l1":
        return difference.abs().mean()
    if kind == "mse":
        return difference.square().mean() * 10  # to the size of the others, so that the same clip and rate fit
    return (difference.square() + CHARBONNIER ** 2).sqrt().mean()


def start_weights(net, path):
    """Loads weights from a checkpoint (from another scale: all but the last layer) and returns it. Exits with a sentence when the
    checkpoint is of another tier."""
    given = torch.load(path, map_location="cpu", weights_only=True)
    if given["tier"] != net.tier:
        sys.exit(f"{path} holds tier {given['tier']}, not {net.tier}: start from a checkpoint of the same tier")
    weights = given["model"]
    if given["scale"] != net.scale:
        weights = {name: value for name, value in weights.items() if not name.startswith("up.")}
    net.load_state_dict(weights, strict=False)
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
    parser.add_argument("--start", help="checkpoint to start from, of the same tier; of any scale")
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
    parser.add_argument("--bf16", choices=("auto", "on", "off"), default="auto", help="auto: on CUDA only")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch decides)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.precision == "int8" and not args.start:
        parser.error("--precision int8 fine-tunes a trained model: give its checkpoint with --start")
    return args


def main(argv=None):
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    bf16 = args.bf16 == "on" or args.bf16 == "auto" and device.type == "cuda"
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)
    log = open(os.path.join(args.out, "log.txt"), "a", buffering=1)

    def say(text):
        print(text, flush=True)
        print(time.strftime("%F %T"), text, file=log)

    sets, sha256 = data.build(args.pictures, args.scale, args.flavour, args.clips, os.path.join(args.out, "pairs.npz"))
    sets = {name: value.to(device) for name, value in sets.items()}

    def draw(generator, count):
        if args.flavour == "clean":
            return data.patches(sets["clean_lr"], sets["clean_hr"], count, args.patch, generator)
        clean = round(count * CLEAN_SHARE)
        mixed = (data.patches(sets["clean_lr"], sets["clean_hr"], clean, args.patch, generator),
                 data.patches(sets["video_lr"], sets["video_hr"], count - clean, args.patch, generator))
        return (torch.cat(pair).contiguous(memory_format=torch.channels_last) for pair in zip(*mixed))

    checkpoint = os.path.join(args.out, "checkpoint.pt")
    net = model.LMSWN(args.tier, args.scale)
    given = start_weights(net, args.start) if args.start else {}
    history = given.get("history", [])  # one line a run that these weights went through
    net = net.to(device=device, memory_format=torch.channels_last)
    if given and given["scale"] != args.scale and not os.path.exists(checkpoint):
        solve_last(net, draw)
    rounding = quantize.Rounding(net.fold().detach(), sets["held_lr"]) if args.precision == "int8" else None
    groups = [{"params": list(net.parameters()), "lr": args.lr}]
    if rounding is not None:
        groups.append({"params": list(rounding.parameters()), "lr": args.lr})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    iteration, seconds = 0, 0.0
    if os.path.exists(checkpoint):
        kept = torch.load(checkpoint, map_location=device, weights_only=True)
        if (kept["tier"], kept["scale"], kept["flavour"]) != (args.tier, args.scale, args.flavour):
            sys.exit(f"{checkpoint} is of another model: give another --out, or delete it")
        net.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        if rounding is not None:
            rounding.load_state_dict(kept["rounding"])
        iteration, seconds, history = kept["iteration"], kept["seconds"], kept["history"]
        say(f"going on from {checkpoint}, iteration {iteration}")

    def run(x):
        folded = net.fold()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model.run(folded, x) if rounding is None else rounding.run(folded, x)

    def save():
        state = {"tier": args.tier, "scale": args.scale, "flavour": args.flavour, "model": net.state_dict(),
                 "optimizer": optimizer.state_dict(), "iteration": iteration, "seconds": seconds, "history": history,
                 "data_sha256": sha256}
        if rounding is not None:
            state["rounding"] = rounding.state_dict()
        torch.save(state, checkpoint + ".partial")
        os.replace(checkpoint + ".partial", checkpoint)

    stop = []
    before = {number: signal.signal(number, lambda *_: stop.append(True)) for number in (signal.SIGINT, signal.SIGTERM)}

    generator = torch.Generator()
    loss_sum, shown, saved, begin = 0.0, iteration, time.monotonic(), time.monotonic() - seconds
    say(f"{args.tier} x{args.scale} {args.flavour} {args.precision} on {device}, PyTorch {torch.__version__}: "
        f"held out {psnr(net, run, sets['held_lr'], sets['held_hr']):.3f} dB at the start")
    while not stop:
        done = max(iteration / args.iterations, seconds / 60 / args.minutes)
        if done >= 1:
            break
        rate = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate * min(1, (iteration + 1) / WARM_UP)
        generator.manual_seed(args.seed * 1_000_003 + iteration)  # so that a resumed run sees what an unbroken one would
        x, target = draw(generator, args.batch)
        loss = loss_of(args.loss, run(x), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()
        iteration += 1
        loss_sum = loss_sum + loss.detach()
        seconds = time.monotonic() - begin
        if iteration % SHOW == 0:
            speed = iteration / seconds
            left = min((args.iterations - iteration) / speed / 60, args.minutes - seconds / 60)
            say(f"{iteration:7d}  {100 * done:5.1f} %  loss {float(loss_sum) / (iteration - shown):.5f}  "
                f"{speed:.1f} it/s  {left:.0f} min left")
            loss_sum, shown = 0.0, iteration
        if iteration % SCORE == 0:
            say(f"{iteration:7d}  held out {psnr(net, run, sets['held_lr'], sets['held_hr']):.3f} dB")
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    for number, handler in before.items():
        signal.signal(number, handler)  # what follows may be interrupted in the ordinary way
    if stop:
        save()
        say(f"stopped at iteration {iteration}: the same command goes on from here")
        return
    say(f"done: {iteration} iterations, held out {psnr(net, run, sets['held_lr'], sets['held_hr']):.3f} dB")
    summary = (f"{iteration} iterations of {args.flavour} {args.precision} at x{args.scale}, batch {args.batch}, "
               f"patch {args.patch}, {args.loss}, lr {args.lr:g}")
    if not history or history[-1] != summary:
        history = history + [summary]
    save()
    path = export.write(net.fold().detach(), rounding, args.out, args.flavour, args.version, "; then ".join(history), sha256)
    say(f"wrote {path}")


if __name__ == "__main__":
    main()
