"""Writes what each model makes of one small picture, for tests in any language to compare with:

    python golden.py ../models/*.onnx

models/golden/input.png is luma (a piece of a Big Buck Bunny frame at half its size, CC BY 3.0 Blender Foundation), <name>.png
what the model of that name makes of it, rounded to codes.
"""
import os
import sys

import numpy as np
from PIL import Image

import evaluate

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
CLIP = os.path.join(ROOT, "testdata", "big-buck-bunny-3s.mp4")
FOLDER = os.path.join(ROOT, "models", "golden")
TOP, LEFT, HEIGHT, WIDTH = 60, 200, 48, 64


def input_plane():
    return np.asarray(Image.open(os.path.join(FOLDER, "input.png")))


def output_plane(path):
    """Returns (name, codes as uint8) of a model file on the input plane."""
    model = evaluate.session(path, threads=1)
    codes = np.clip(np.rint(evaluate.upscale(model, input_plane().astype(np.float64))), 0, 255).astype(np.uint8)
    return model.get_modelmeta().custom_metadata_map["name"], codes


def main():
    os.makedirs(FOLDER, exist_ok=True)
    raw, width, height, _ = evaluate.clip(CLIP, 2, 0, 1)
    frame = evaluate.planes(raw, width, height)[0]
    Image.fromarray(frame[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]).save(os.path.join(FOLDER, "input.png"))
    for path in sys.argv[1:]:
        name, codes = output_plane(path)
        Image.fromarray(codes).save(os.path.join(FOLDER, name + ".png"))


if __name__ == "__main__":
    main()
