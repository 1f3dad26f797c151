import signal
import subprocess

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import data
import golden
import model
import train


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three pictures: frames of the test clip, which is 854x480."""
    folder = tmp_path_factory.mktemp("pictures")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-nostdin", "-i", golden.CLIP, "-vf", "select=not(mod(n\\,24))",
                    "-frames:v", "3", "-fps_mode", "passthrough", str(folder / "%d.png")], check=True)
    return folder


def test_luma_is_bt601_limited():
    assert data.luma(np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])).tolist() == [pytest.approx([16, 235, 81.481])]


@pytest.mark.parametrize("length, step", [(288, 2), (289, 2), (321, 3), (480, 4), (481, 2), (2000, 3)])
def test_offsets_cover_the_length(length, step):
    starts = data.offsets(length, step)
    assert starts[0] == 0 and all(s % step == 0 for s in starts)
    assert all(b - a <= data.TILE for a, b in zip(starts, starts[1:]))
    assert length - step < starts[-1] + data.TILE <= length


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pairs_line_up(folder, scale):
    """A tile shrunk is nearly its partner: no shift, no other picture. Compression may cost some."""
    paths = data.pictures(str(folder))
    for (lr, hr), floor in ((data.clean_pairs(paths[:1], scale), 45), (data.video_pairs(paths, scale, 3), 24)):
        assert lr.shape[0] == hr.shape[0] > 0 and lr.shape[2] * scale == hr.shape[2] == data.TILE
        for small, large in zip(lr, hr):
            again = np.asarray(data.shrink(Image.fromarray(large[0]), scale), np.float64)[4:-4, 4:-4]
            right = -10 * np.log10(np.mean((again - small[0, 4:-4, 4:-4]) ** 2) / 255 ** 2)
            shifted = -10 * np.log10(np.mean((again[:, 1:] - small[0, 4:-4, 4:-5]) ** 2) / 255 ** 2)
            assert right > floor and right > shifted


def test_patches_line_up_whatever_the_flip():
    """Each LR pixel holds its place in the tile; the HR pixels of its square hold the same."""
    lr = torch.arange(144 * 144).view(1, 1, 144, 144) % 251
    hr = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x, y = data.patches(lr.byte(), hr.byte(), 32, 48, torch.Generator().manual_seed(3))
    assert x.shape == (32, 1, 48, 48) and torch.equal(y, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    steps = {float(v) for v in (x[:, 0, 0, 1] - x[:, 0, 0, 0]).mul(255).round()}
    assert len(steps) >= 4  # both flips, transposed and not


def test_data_list_knows_names_and_contents(tmp_path):
    one, two = tmp_path / "a.png", tmp_path / "b.png"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    first = data.list_sha256([str(one), str(two)])
    assert first == data.list_sha256([str(two), str(one)])
    two.write_bytes(b"3")
    assert first != data.list_sha256([str(one), str(two)])


def test_one_command_makes_a_model_and_goes_on_after_a_stop(folder, tmp_path, monkeypatch, capsys):
    """Stopped in the middle and started again, then fine-tuned to int8: both files are there and know what they are."""
    common = [str(folder), "--flavour", "clean", "--batch", "4", "--patch", "24", "--threads", "1"]
    command = common + ["--out", str(tmp_path / "fp32"), "--iterations", "20"]
    with monkeypatch.context() as patch:
        calls = []

        def loss_then_signal(*args):
            calls.append(True)
            if len(calls) == 8:
                signal.raise_signal(signal.SIGTERM)
            return loss_of(*args)

        loss_of = train.loss_of
        patch.setattr(train, "loss_of", loss_then_signal)
        train.main(command)
    assert "stopped at iteration 8" in capsys.readouterr().out
    train.main(command)
    out = capsys.readouterr().out
    assert "checkpoint.pt, iteration 8" in out and "done: 20 iterations" in out
    train.main(common + ["--out", str(tmp_path / "int8"), "--iterations", "3", "--precision", "int8", "--start",
                         str(tmp_path / "fp32" / "checkpoint.pt")])
    for precision, name in (("fp32", "lmswn-s-x2-clean"), ("int8", "lmswn-s-x2-clean-int8")):
        session = onnxruntime.InferenceSession(str(tmp_path / precision / (name + ".onnx")))
        about = session.get_modelmeta().custom_metadata_map
        assert about["precision"] == precision and about["training"].startswith("20 iterations of clean fp32")
        assert about["data_sha256"] == data.list_sha256(data.pictures(str(folder)))


@torch.no_grad()
def test_solved_last_layer_is_the_best_for_its_features():
    torch.manual_seed(7)
    net = model.LMSWN("s", 3)
    x = torch.nn.functional.interpolate(torch.rand(16, 1, 6, 6), size=24, mode="bicubic")
    target = torch.nn.functional.interpolate(x, scale_factor=3, mode="bicubic")
    error = lambda: float((model.run(net.fold(), x) - target).square().mean())
    train.solve_last(net, lambda generator, count: (x, target))
    best = error()
    assert best < 0.2 * float((torch.nn.functional.interpolate(x, scale_factor=3) - target).square().mean())
    for parameter in net.up.parameters():
        change = 0.01 * torch.randn_like(parameter)
        parameter += change
        assert error() > best
        parameter -= change
