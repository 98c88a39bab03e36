"""Whole training runs with the two forms of the operators."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from models.unet3d import UNet3d, UNet3dArgs
from ops.convolution import rules
from tests.ops.convolution.checks import draw, use

pytestmark = pytest.mark.slow


def train(monkeypatch, form, steps=20, compiled=False, **args):
    """Losses of a small U-Net with channel dropout under SGD, always from the same start."""
    use(monkeypatch, form)
    mx.random.seed(0)
    model = UNet3d(1, 3, UNet3dArgs(**{"widths": (4, 8), **args}))
    model.train()
    optimizer = optim.SGD(0.05, momentum=0.9)
    x = draw((2, 8, 8, 8, 1))
    y = mx.array(np.random.default_rng(1).integers(0, 3, (2, 8, 8, 8)))
    gradients_of = nn.value_and_grad(model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean"))
    if compiled:
        state = [model.state, mx.random.state]
        gradients_of = mx.compile(gradients_of, inputs=state, outputs=state)
    losses = []
    for _ in range(steps):
        loss, gradients = gradients_of(x, y)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        losses.append(loss.item())
    return losses


def test_losses_agree_between_the_forms_and_repeat_bit_for_bit(monkeypatch):
    plain, ours, again = (train(monkeypatch, form) for form in ("mlx", "onednn", "onednn"))
    assert ours[-1] < 0.9 * ours[0]
    np.testing.assert_allclose(ours, plain, rtol=1e-4)
    assert ours == again


@pytest.mark.parametrize(("device", "compiled"), [("metal", False), ("metal", True), ("cuda", False)])
def test_losses_agree_where_every_layer_is_a_large_one(monkeypatch, device, compiled):
    """Nothing unfolds: by rows or cuDNN's convolution, phases, products and tiles."""
    network = {"widths": (6, 8, 12), "residual": True, "convolutions": 1}
    want = train(monkeypatch, "onednn", **network)
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", 1)
    monkeypatch.setattr(rules, "device", lambda: device)
    np.testing.assert_allclose(train(monkeypatch, "mlx", compiled=compiled, **network), want, rtol=1e-4)
