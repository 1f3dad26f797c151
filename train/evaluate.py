"""Scores model files as the server will run them, through ONNX Runtime, next to bicubic.

    python evaluate.py pictures ../models/*.onnx --data FOLDER       FOLDER/Set5/2_img_001_SRF_2_HR.png and _LR.png, ...
    python evaluate.py clips ../models/*-x2-*.onnx --clips a.mp4 ...  shrunk, encoded at each crf, decoded, upscaled

Both print Markdown tables. Pictures: the protocol of the papers (luma of RGB, s pixels cut from each border). Clips: the luma of
the decoded frames, rounded to codes as a server must, against the clip's own; mean of the frames' PSNR and SSIM.
"""
import argparse
import glob
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image

import data

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def session(path, threads=0):
    """Returns an ONNX Runtime session of a model file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def upscale(model, plane):
    """Returns the luma (H x W, 0..255, float) upscaled by a session, not rounded."""
    return model.run(["y"], {"x": (plane / 255).astype(np.float32)[None, None]})[0][0, 0] * 255.0


def bicubic(plane, scale):
    """Returns the luma (H x W, 0..255, float) upscaled by Pillow's bicubic, not rounded."""
    h, w = plane.shape
    return np.asarray(Image.fromarray(plane.astype(np.float32), "F").resize((w * scale, h * scale), Image.BICUBIC))


def psnr(a, b):
    """Returns the PSNR in dB of two planes of 0..255; infinite when they are equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 10 * np.log10(255 ** 2 / error) if error else np.inf


def ssim(a, b):
    """Returns the mean SSIM of two planes of 0..255 (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5)."""
    line = torch.exp(-(torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2 / (2 * SSIM_SIGMA ** 2)).double()
    line = line / line.sum()
    a, b = (torch.as_tensor(np.asarray(p, np.float64)) for p in (a, b))
    stack = torch.stack((a, b, a * a, b * b, a * b))[:, None]
    mean = F.conv2d(F.conv2d(stack, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))[:, 0]
    ma, mb, c1, c2 = mean[0], mean[1], (0.01 * 255) ** 2, (0.03 * 255) ** 2
    va, vb, vab = mean[2] - ma * ma, mean[3] - mb * mb, mean[4] - ma * mb
    return float((((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))).mean())


def picture_set(folder, scale):
    """Returns the (lr, hr) luma planes (0..255, float) of a test set; empty when the set is not there."""
    pairs = []
    for path in sorted(glob.glob(os.path.join(folder, f"{scale}_*_HR.png"))):
        hr, lr = (data.luma(Image.open(p).convert("RGB")) for p in (path, path.replace("_HR", "_LR")))
        pairs.append((lr, hr[:lr.shape[0] * scale, :lr.shape[1] * scale]))
    return pairs


def picture_score(up, pairs, scale):
    """Returns the mean PSNR and SSIM over pairs of what up makes of the small planes."""
    s = scale
    scores = []
    for lr, hr in pairs:
        a, b = up(lr)[s:-s, s:-s], hr[s:-s, s:-s]
        scores.append((psnr(a, b), ssim(a, b)))
    return np.mean(scores, 0)


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def pictures(args):
    models = [(path, session(path, args.threads)) for path in args.models]
    scale_of = {path: int(m.get_modelmeta().custom_metadata_map["scale"]) for path, m in models}
    for scale in sorted(set(scale_of.values())):
        sets = {name: picture_set(os.path.join(args.data, name), scale) for name in args.sets}
        for name in [n for n in sets if not sets[n]]:
            print(f"no pictures of {name} at x{scale} under {args.data}: left out", file=sys.stderr)
            del sets[name]
        ways = [("bicubic", lambda p: bicubic(p, scale))]
        ways += [(m.get_modelmeta().custom_metadata_map["name"], lambda p, m=m: upscale(m, p))
                 for path, m in models if scale_of[path] == scale]
        rows = [[name] + ["%.2f / %.4f" % tuple(picture_score(up, pairs, scale)) for pairs in sets.values()]
                for name, up in ways]
        table([f"x{scale}, PSNR / SSIM"] + list(sets), rows)


def ffmpeg(*args, given=None):
    return subprocess.run(["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", *args], input=given,
                          stdout=subprocess.PIPE, check=True).stdout


def planes(raw, width, height):
    """Returns the luma planes of raw yuv420p frames: T x height x width, uint8."""
    frames = np.frombuffer(raw, np.uint8).reshape(-1, width * height * 3 // 2)
    return frames[:, :width * height].reshape(-1, height, width)


def size_of(path):
    out = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of",
                          "csv=p=0", path], stdout=subprocess.PIPE, check=True, text=True).stdout
    width, height = out.strip().strip(",").split(",")[:2]
    return int(width), int(height)


def clip(path, scale, start, frames):
    """Returns (raw LR yuv420p frames, LR width, LR height, HR luma planes) of a stretch of a clip."""
    width, height = (n // (2 * scale) * 2 * scale for n in size_of(path))
    cut = ["-ss", str(start), "-i", path, "-frames:v", str(frames), "-an", "-pix_fmt", "yuv420p", "-f", "rawvideo"]
    crop = f"crop={width}:{height}:0:0"
    hr = ffmpeg(*cut, "-vf", crop, "-")
    w, h = width // scale, height // scale
    lr = ffmpeg(*cut, "-vf", f"{crop},scale={w}:{h}:flags=bicubic+accurate_rnd", "-")
    return lr, w, h, planes(hr, width, height)


def encoded(raw, width, height, codec, crf):
    """Returns the luma planes of raw yuv420p frames after x264 or x265 at a crf (or "none": as they are)."""
    if crf == "none":
        return planes(raw, width, height)
    muxer = {"libx264": "h264", "libx265": "hevc"}[codec]
    quiet = ["-x265-params", "log-level=error"] if codec == "libx265" else []
    coded = ffmpeg("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", "24", "-i", "-", "-c:v", codec,
                   "-crf", str(crf), *quiet, "-f", muxer, "-", given=raw)
    return planes(ffmpeg("-f", muxer, "-i", "-", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-",
                         given=coded), width, height)


def clips(args):
    models = [(m.get_modelmeta().custom_metadata_map, m) for m in (session(path, args.threads) for path in args.models)]
    for scale in sorted({int(about["scale"]) for about, _ in models}):
        ways = [("bicubic", lambda p: bicubic(p, scale))]
        ways += [(about["name"], lambda p, m=m: upscale(m, p)) for about, m in models if int(about["scale"]) == scale]
        rows, s = [], scale
        for path in args.clips:
            raw, width, height, hr = clip(path, scale, args.start, args.frames)
            for crf in args.crf:
                lr = encoded(raw, width, height, args.codec, crf)
                if len(lr) != len(hr):
                    sys.exit(f"{path}: {len(hr)} frames went into {args.codec}, {len(lr)} came out")
                row = [os.path.basename(path), str(crf)]
                for _, up in ways:
                    scores = []
                    for t in range(0, len(lr), args.step):
                        a = np.clip(np.rint(up(lr[t].astype(np.float64))), 0, 255)[s:-s, s:-s]
                        scores.append((psnr(a, hr[t][s:-s, s:-s]), ssim(a, hr[t][s:-s, s:-s])))
                    row.append("%.2f / %.4f" % tuple(np.mean(scores, 0)))
                rows.append(row)
        table([f"x{scale}, {args.codec}", "crf"] + [name for name, _ in ways], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    still = commands.add_parser("pictures", help="Set5, Set14 and the like")
    still.add_argument("models", nargs="+")
    still.add_argument("--data", required=True)
    still.add_argument("--sets", nargs="+", default=["Set5", "Set14"])
    moving = commands.add_parser("clips", help="real clips through a real encoder")
    moving.add_argument("models", nargs="+")
    moving.add_argument("--clips", nargs="+", required=True)
    moving.add_argument("--crf", nargs="+", default=["none", 18, 23, 28], help="numbers, or none for uncompressed")
    moving.add_argument("--codec", choices=("libx264", "libx265"), default="libx264")
    moving.add_argument("--start", type=float, default=0, help="seconds into the clip")
    moving.add_argument("--frames", type=int, default=96)
    moving.add_argument("--step", type=int, default=6, help="score every so many frames")
    for command in (still, moving):
        command.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    {"pictures": pictures, "clips": clips}[args.command](args)


if __name__ == "__main__":
    main()
