"""Every file in models/: what it says about itself is so, and it upscales as well as stated."""
import functools
import glob
import os

import numpy as np
import onnx
import pytest
from PIL import Image

import evaluate
import golden
import metadata

MODELS = sorted(glob.glob(os.path.join(golden.ROOT, "models", "*.onnx")))
NAMES = [os.path.basename(path)[:-len(".onnx")] for path in MODELS]
TEST_SETS = os.environ.get("LMSWN_TEST_SETS", os.path.join(os.path.dirname(os.path.abspath(__file__)), "data"))

# At least so many dB above bicubic: on a frame of the test clip, shrunk and not compressed; and on Set5.
MARGINS = {
    "lmswn-s-x2-clean": (3.2, 3.5),
    "lmswn-s-x2-clean-int8": (3.1, 3.45),
    "lmswn-s-x2-video": (2.5, 2.9),
    "lmswn-s-x2-video-int8": (2.5, 2.85),
    "lmswn-m-x2-video": (2.5, 2.9),
    "lmswn-m-x2-video-int8": (2.5, 2.85),
    "lmswn-s-x3-video": (1.9, 2.3),
    "lmswn-s-x3-video-int8": (1.9, 2.25),
    "lmswn-s-x4-video": (1.4, 2.0),
    "lmswn-s-x4-video-int8": (1.4, 2.0),
}
INT8_LOSS = 0.1  # dB at most on Set5 against the float model

every = pytest.mark.parametrize("path", MODELS, ids=NAMES)


@functools.cache
def session(path):
    return evaluate.session(path, threads=1)


def about(path):
    return session(path).get_modelmeta().custom_metadata_map


@functools.cache
def frame(scale):
    """A frame of the test clip: (LR luma, HR luma)."""
    raw, width, height, hr = evaluate.clip(golden.CLIP, scale, 1, 1)
    return evaluate.planes(raw, width, height)[0].astype(np.float64), hr[0].astype(np.float64)


def test_there_are_models():
    assert set(NAMES) == set(MARGINS)


@every
def test_metadata_matches_graph(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    said = metadata.read(model)
    assert set(said) == set(metadata.KEYS) and all(said.values())
    assert said.items() >= metadata.from_graph(model).items()
    assert said["name"] == os.path.basename(path)[:-len(".onnx")]
    assert said["flavour"] in ("clean", "video") and "-" + said["flavour"] in said["name"]
    x, y = model.graph.input[0], model.graph.output[0]
    assert (x.name, y.name) == ("x", "y") and [o.version for o in model.opset_import if o.domain == ""] == [13]
    for size in ((1, 1, 1, 1), (2, 1, 5, 9)):
        s = int(said["scale"])
        out = session(path).run(["y"], {"x": np.zeros(size, np.float32)})[0]
        assert out.dtype == np.float32 and out.shape == (size[0], 1, s * size[2], s * size[3])


@every
def test_tiles_are_exact(path):
    """Tiles with the metadata's halo, put together, are the whole frame's result, to the bit."""
    halo, s = int(about(path)["receptive_field"]), int(about(path)["scale"])
    plane = frame(s)[0][:100, :150]
    whole = evaluate.upscale(session(path), plane)
    for top in range(0, 100, 50):
        for left in range(0, 150, 50):
            y, x = max(top - halo, 0), max(left - halo, 0)
            tile = evaluate.upscale(session(path), plane[y:top + 50 + halo, x:left + 50 + halo])
            inner = tile[(top - y) * s:(top - y + 50) * s, (left - x) * s:(left - x + 50) * s]
            assert np.array_equal(inner, whole[top * s:(top + 50) * s, left * s:(left + 50) * s])


@every
def test_better_than_bicubic_on_a_frame(path):
    name, s = about(path)["name"], int(about(path)["scale"])
    lr, hr = frame(s)
    hr = hr[s:-s, s:-s]
    base = evaluate.psnr(evaluate.bicubic(lr, s)[s:-s, s:-s], hr)
    assert evaluate.psnr(evaluate.upscale(session(path), lr)[s:-s, s:-s], hr) > base + MARGINS[name][0]


@functools.cache
def set5(name):
    """Returns the mean PSNR on Set5 of a model by name, or of bicubic by scale."""
    path = None if isinstance(name, int) else MODELS[NAMES.index(name)]
    s = name if path is None else int(about(path)["scale"])
    pairs = evaluate.picture_set(os.path.join(TEST_SETS, "Set5"), s)
    if not pairs:
        pytest.skip(f"no Set5 in {TEST_SETS}: unpack it there, or set LMSWN_TEST_SETS")
    ups = [(evaluate.bicubic(lr, s) if path is None else evaluate.upscale(session(path), lr), hr) for lr, hr in pairs]
    return np.mean([evaluate.psnr(up[s:-s, s:-s], hr[s:-s, s:-s]) for up, hr in ups])


@every
def test_better_than_bicubic_on_set5(path):
    name = about(path)["name"]
    assert set5(name) > set5(int(about(path)["scale"])) + MARGINS[name][1]


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("-int8")])
def test_int8_loses_little(name):
    assert set5(name) > set5(name[:-len("-int8")]) - INT8_LOSS


@every
def test_golden_output(path):
    """The same picture as when the file was made, on whatever machine; int8 sums may round another way here and there."""
    name, codes = golden.output_plane(path)
    want = np.asarray(Image.open(os.path.join(golden.FOLDER, name + ".png")))
    off = np.abs(codes.astype(int) - want)
    if about(path)["precision"] == "int8":
        assert off.max() <= 6 and off.mean() < 0.25
    else:
        assert off.max() <= 1 and off.mean() < 0.001
