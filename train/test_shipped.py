"""Every file in models/: what it says about itself is so. How well it upscales is tested where it is served (models/, in Go)."""
import functools
import glob
import os

import numpy as np
import onnx
import pytest

import evaluate
import golden
import metadata

MODELS = sorted(glob.glob(os.path.join(golden.ROOT, "models", "*.onnx")))
NAMES = [os.path.basename(path)[:-len(".onnx")] for path in MODELS]
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
    assert MODELS


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
