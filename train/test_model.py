import numpy as np
import onnxruntime
import pytest
import torch

import export
import model
import quantize


def trained(tier, scale):
    """A network in which l1 and l2 are no longer 1."""
    torch.manual_seed(5)
    net = model.LMSWN(tier, scale)
    with torch.no_grad():
        for i, block in enumerate(net.body):
            block.l1.fill_(1.3)
            block.l2.fill_(0.6 + 0.1 * i)
    return net


@pytest.mark.parametrize("tier, scale", [("s", 2), ("s", 3), ("m", 4), ("l", 2)])
@torch.no_grad()
def test_folding_is_exact(tier, scale):
    net, x = trained(tier, scale), torch.rand(2, 1, 25, 31)
    want = net(x)
    assert want.shape == (2, 1, 25 * scale, 31 * scale)
    assert (want - torch.nn.functional.interpolate(x, scale_factor=scale)).abs().max() > 0.01
    assert (model.run(net.fold(), x) - want).abs().max() < 1e-5
    assert (model.run(net.fold().absorb_l2(), x) - want).abs().max() < 1e-5


def test_folding_passes_gradients_to_every_parameter():
    net = trained("s", 2)
    model.run(net.fold(), torch.rand(1, 1, 24, 24)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("tier, scale", [("s", 2), ("m", 3)])
@torch.no_grad()
def test_a_written_model_can_be_trained_on(tier, scale, tmp_path):
    net, x = trained(tier, scale), torch.rand(1, 1, 25, 31)
    path = export.write(net.fold().detach(), None, str(tmp_path), "clean", "0", "first; then second", "unknown")
    folded, about = export.read_float(path)
    again = model.LMSWN(tier, scale)
    again.unfold(folded)
    assert about["training"] == "first; then second"
    assert (again(x) - net(x)).abs().max() < 1e-5


def test_absorbing_refuses_an_l2_of_zero():
    net = trained("s", 2)
    with torch.no_grad():
        net.body[1].l2.zero_()
    with pytest.raises(ValueError, match="block 1"):
        net.fold().absorb_l2()


@torch.no_grad()
def test_receptive_field_is_4b_plus_5():
    net = trained("s", 2).double().fold()  # a pixel 17 away weighs too little for float32
    x = torch.rand(1, 1, 64, 64).double()
    y = model.run(net, x)
    for reach, same in ((17, False), (18, True)):
        other = x.clone()
        other[:, :, 32 - reach, 32] += 1
        assert torch.equal(model.run(net, other)[:, :, 64:66, 64:66], y[:, :, 64:66, 64:66]) == same


@torch.no_grad()
def test_rounding_stays_close_to_float():
    net = trained("s", 2).fold()
    tiles = (torch.rand(4, 1, 40, 40) * 255).byte()
    x = tiles.float() / 255
    rounding, want = quantize.Rounding(net, tiles), model.run(net, x)
    got = rounding.run(net, x)
    signal = (want - torch.nn.functional.interpolate(x, scale_factor=2)).square().mean()
    assert (got - want).square().mean() < 0.02 * signal
    assert not torch.equal(got, want)


@torch.no_grad()
def test_int8_graph_computes_what_training_saw(tmp_path):
    net = trained("s", 3).fold().detach()
    tiles = (torch.rand(4, 1, 40, 40) * 255).byte()
    x = tiles.float() / 255
    rounding = quantize.Rounding(net, tiles)
    path = export.write(net, rounding, str(tmp_path), "clean", "0", "test", "unknown")
    got = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]
    want, exact = rounding.run(net, x).numpy(), model.run(net, x).numpy()
    # A sum that falls between two codes may round either way, and the next layers spread that. So the two agree better
    # with each other than with the float network, and neither is nearer to it.
    assert np.abs(got - want).mean() < 0.9 * np.abs(want - exact).mean()
    assert np.abs(got - exact).mean() == pytest.approx(np.abs(want - exact).mean(), rel=0.1)
    # And nothing but rounding: no channel is off as a whole.
    assert np.abs((got - want).mean((0, 2, 3))).max() < 0.1 * np.abs(want - exact).mean()
