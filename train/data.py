"""Training pairs from a folder of pictures: clean (bicubic) and video (through a real encoder).

A pair is a tile of luma and its small version, both uint8 as coded (BT.601, 16..235), because that is what the server feeds the
network. All tiles of a set have one size, so that a whole set is two arrays that fit on a GPU:
lr: N x 1 x TILE/s x TILE/s, hr: N x 1 x TILE x TILE.
"""
import glob
import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

TILE = 288  # HR pixels: divisible by 2, 3 and 4, and room for motion in a BSDS picture (481x321)
GOP = 9  # frames of a synthetic clip, the first one intra
KEPT_FRAMES = (0, 2, 5, 8)  # of each clip: the intra frame and three that are predicted
CLIPS_PER_ENCODE = 12  # clips that share an encoder run, so that starting FFmpeg does not dominate
CRF = (18.0, 34.0)
CODECS = (  # x264 twice as often as x265; all but ultrafast use B-frames
    ("libx264", "h264", ("veryfast", "fast", "medium", "slow")),
    ("libx264", "h264", ("veryfast", "medium", "superfast")),
    ("libx265", "hevc", ("ultrafast", "veryfast", "medium")),
)
HELD_OUT = 64  # every 64th picture is kept for the score that training prints


def pictures(folder):
    """Returns the sorted paths of the pictures in folder; raises SystemExit with a sentence when there are none."""
    paths = sorted(p for p in glob.glob(os.path.join(folder, "**", "*"), recursive=True)
                   if p.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")))
    if not paths:
        sys.exit(f"no pictures in {folder}: give a folder of PNG, JPEG, WebP, BMP or TIFF files")
    return paths


def list_sha256(paths):
    """Returns the SHA-256 of the data list: one line "<SHA-256 of the file>  <file name>" a picture, sorted by file name."""
    lines = []
    for path in sorted(paths, key=os.path.basename):
        with open(path, "rb") as file:
            lines.append(f"{hashlib.sha256(file.read()).hexdigest()}  {os.path.basename(path)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def luma(rgb):
    """Returns the BT.601 limited-range luma (16..235, float) of an H x W x 3 RGB array of 0..255, as the SR papers measure it."""
    return 16 + (np.asarray(rgb, np.float64) @ (65.481, 128.553, 24.966)) / 255


def chroma(rgb):
    """Returns the 4:2:0 BT.601 limited-range chroma planes of an H x W x 3 RGB array with even H and W, each pixel a 2x2 mean."""
    h, w = rgb.shape[:2]
    mean = np.asarray(rgb, np.float64).reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)) / 255
    return 128 + mean @ (-37.797, -74.203, 112.0), 128 + mean @ (112.0, -93.786, -18.214)


def code(plane):
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def shrink(picture, scale):
    """Returns a PIL picture shrunk by Pillow's antialiased bicubic, close to MATLAB's imresize."""
    return picture.resize((picture.width // scale, picture.height // scale), Image.BICUBIC)


def offsets(length, step):
    """Returns the starts of TILE-long pieces, multiples of step, that cover length (but for less than step at the end)."""
    last = (length - TILE) // step * step
    count = -(-last // TILE) + 1
    return sorted({round(last * i / max(count - 1, 1)) // step * step for i in range(count)})


def load(path, scale):
    """Returns the picture as RGB cut to multiples of scale, or None (said on stderr) when it is smaller than a tile."""
    picture = Image.open(path).convert("RGB")
    picture = picture.crop((0, 0, picture.width // scale * scale, picture.height // scale * scale))
    if min(picture.size) < TILE:
        print(f"skipped {path}: smaller than {TILE}x{TILE}", file=sys.stderr)
        return None
    return picture


def clean_pairs(paths, scale):
    """Returns (lr, hr) of all tiles of all pictures: the pictures shrunk whole, then cut."""
    lr, hr = [], []
    for path in paths:
        picture = load(path, scale)
        if picture is None:
            continue
        large, small = code(luma(picture)), code(luma(shrink(picture, scale)))
        for top in offsets(large.shape[0], scale):
            for left in offsets(large.shape[1], scale):
                hr.append(large[top:top + TILE, left:left + TILE])
                y, x, n = top // scale, left // scale, TILE // scale
                lr.append(small[y:y + n, x:x + n])
    return np.stack(lr)[:, None], np.stack(hr)[:, None]


def pan(picture, rng):
    """Yields GOP crops of TILE x TILE that move over the picture until its edge; one clip in six stands still."""
    room = (picture.width - TILE, picture.height - TILE)
    still = rng.random() < 1 / 6
    speed = [0.0 if still else rng.uniform(-5, 5) for _ in room]
    start = [rng.uniform(0, r) for r in room]
    for t in range(GOP):
        left, top = (int(min(max(p + v * t, 0), r)) for p, v, r in zip(start, speed, room))
        yield picture.crop((left, top, left + TILE, top + TILE))


def through_encoder(frames, size, codec, muxer, preset, crf):
    """Returns the luma planes (T x size x size, uint8) of yuv420p frames (bytes) after encoding and decoding them."""
    quiet = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin"]
    # A closed GOP per clip: no frame is predicted from another picture's clip.
    params = f"keyint={GOP}:min-keyint={GOP}:scenecut=0" + (":open-gop=0:log-level=error" if codec == "libx265" else "")
    encoded = subprocess.run(
        quiet + ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{size}x{size}", "-r", "25", "-i", "-", "-c:v", codec,
                 "-preset", preset, "-crf", f"{crf:.1f}", "-" + codec[3:] + "-params", params, "-f", muxer, "-"],
        input=frames, stdout=subprocess.PIPE, check=True).stdout
    decoded = subprocess.run(
        quiet + ["-f", muxer, "-i", "-", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"],
        input=encoded, stdout=subprocess.PIPE, check=True).stdout
    planes = np.frombuffer(decoded, np.uint8).reshape(-1, size * size * 3 // 2)
    if len(planes) * size * size * 3 // 2 != len(frames):
        raise RuntimeError(f"{codec} returned {len(planes)} frames for {len(frames) * 2 // 3 // size ** 2}")
    return planes[:, :size * size].reshape(-1, size, size)


def video_pairs(paths, scale, clips, seed=1):
    """Returns (lr, hr) of KEPT_FRAMES of synthetic clips: crops moving over a picture, shrunk, encoded, decoded."""
    rng, size, lr, hr = random.Random(seed), TILE // scale, [], []
    order = []
    while len(order) < clips:
        order += rng.sample(paths, len(paths))
    for begin in range(0, clips, CLIPS_PER_ENCODE):
        raw, large = [], []
        for path in order[begin:min(begin + CLIPS_PER_ENCODE, clips)]:
            picture = load(path, scale)
            if picture is None:
                continue
            for t, crop in enumerate(pan(picture, rng)):
                small = np.asarray(shrink(crop, scale))
                raw += [code(plane).tobytes() for plane in (luma(small), *chroma(small))]
                if t in KEPT_FRAMES:
                    large.append(code(luma(crop)))
        codec, muxer, presets = rng.choice(CODECS)
        planes = through_encoder(b"".join(raw), size, codec, muxer, rng.choice(presets), rng.uniform(*CRF))
        lr += [planes[t] for t in range(len(planes)) if t % GOP in KEPT_FRAMES]
        hr += large
        print(f"\rencoding clips: {min(begin + CLIPS_PER_ENCODE, clips)}/{clips}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return np.stack(lr)[:, None], np.stack(hr)[:, None]


def build(folder, scale, flavour, clips, cache):
    """Returns (sets, SHA-256 of the data list); sets maps clean_lr, clean_hr, held_lr, held_hr, and for the video flavour
    video_lr and video_hr, to uint8 tensors. The held ones are of the flavour, from pictures that the others do not show.

    The arrays are kept in the file cache, and read from there while pictures, scale, flavour and clips stay the same.
    """
    paths = pictures(folder)
    sha256 = list_sha256(paths)
    key = f"{sha256} x{scale} {flavour} {clips if flavour == 'video' else 0}"
    if os.path.exists(cache):
        with np.load(cache) as kept:
            if str(kept["key"]) == key:
                return {name: torch.from_numpy(kept[name]) for name in kept.files if name != "key"}, sha256
    print(f"preparing pairs from {len(paths)} pictures", file=sys.stderr)
    held = paths[::HELD_OUT]
    rest = sorted(set(paths) - set(held)) or held
    sets = {}
    sets["clean_lr"], sets["clean_hr"] = clean_pairs(rest, scale)
    if flavour == "video":
        sets["video_lr"], sets["video_hr"] = video_pairs(rest, scale, clips)
        sets["held_lr"], sets["held_hr"] = video_pairs(held, scale, 3 * len(held), seed=2)
    else:
        sets["held_lr"], sets["held_hr"] = clean_pairs(held, scale)
    os.makedirs(os.path.dirname(cache) or ".", exist_ok=True)
    partial = cache + ".partial.npz"
    np.savez(partial, key=key, **sets)
    os.replace(partial, cache)
    return {name: torch.from_numpy(array) for name, array in sets.items()}, sha256


def patches(lr, hr, count, size, generator):
    """Returns count random pairs of patches as float 0..1: (count x 1 x size x size, count x 1 x s*size x s*size).

    Flipped at random, half of them transposed. lr and hr stay where they are (a GPU, say); only the choice is made here.
    """
    scale, device = hr.shape[2] // lr.shape[2], lr.device
    draw = lambda high: torch.randint(high, (count,), generator=generator).to(device)
    index, top, left = draw(lr.shape[0]), draw(lr.shape[2] - size + 1), draw(lr.shape[3] - size + 1)
    flip_y, flip_x = draw(2).bool(), draw(2).bool()

    def cut(planes, factor):
        n = size * factor
        line = torch.arange(n, device=device)
        rows = (top * factor)[:, None] + torch.where(flip_y[:, None], n - 1 - line, line)
        columns = (left * factor)[:, None] + torch.where(flip_x[:, None], n - 1 - line, line)
        patch = planes[index[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
        patch = torch.cat((patch[:count // 2].transpose(1, 2), patch[count // 2:]))
        return patch[:, None].float() / 255

    return cut(lr, 1), cut(hr, scale)
