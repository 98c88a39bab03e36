import shutil
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from models import build_model
from models.layers.gradient_checkpointing import recomputed
from models.layers.heads import ClassifierDropout
from models.resnet3d import ResNet3dArgs
from models.unet3d import Dropout, UNet3dArgs

pytestmark = pytest.mark.slow

EVERYWHERE = ("encoder", "bottleneck", "decoder", "skip")


def _run(name: str, args: Any, steps: int = 2) -> dict[str, np.ndarray]:
    """Train for some steps; return losses, the last gradients, parameters, statistics and the random state."""
    mx.random.seed(0)
    model = build_model(name, args, 1, 2)
    x = mx.random.normal((2, 8, 8, 8, 1))
    step = nn.value_and_grad(model, lambda x: (model(x) - 1).square().mean())
    losses = []
    for _ in range(steps):
        loss, gradients = step(x)
        model.update(nn.utils.tree_map(lambda p, g: p - 0.1 * g, model.trainable_parameters(), gradients))
        mx.eval(loss, gradients, model.state, mx.random.state)
        losses.append(float(loss))
    found = {f"gradient {k}": np.array(v) for k, v in tree_flatten(gradients)}
    found |= {k: np.array(v) for k, v in tree_flatten(model.parameters())}
    return found | {"losses": np.array(losses), "random": np.array(mx.random.state[0])}


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("kind", ["channel", "element"])
@pytest.mark.parametrize("position", ["after_activation", "before_norm"])
def test_unet_recomputed_is_the_unet(form: str, kind: str, norm: str, position: Any) -> None:
    def run(recompute: bool) -> dict[str, np.ndarray]:
        places = EVERYWHERE if norm == "instance" else EVERYWHERE[:3]
        dropout = Dropout(kind=kind, rate=0.5, places=places, position=position)
        args = UNet3dArgs(widths=(8, 16), norm=norm, residual=kind == "element", recompute=recompute, dropout=dropout)
        return _run("unet3d", args)

    plain, recomputed = run(False), run(True)
    assert ("encoder.0.blocks.0.norm.running_var" in plain) == (norm == "batch")
    for name, expected in plain.items():
        np.testing.assert_allclose(recomputed[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_resnet_recomputed_is_the_resnet() -> None:
    def run(recompute: bool) -> dict[str, np.ndarray]:
        dropout = ClassifierDropout(rate=0.5, places=("body", "head"))
        return _run("resnet3d", ResNet3dArgs(depth=10, width=8, max_pool=False, recompute=recompute, dropout=dropout))

    plain, recomputed = run(False), run(True)
    for name, expected in plain.items():
        np.testing.assert_allclose(recomputed[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_falls_to_the_inputs_of_blocks_and_one_block(compiled: bool) -> None:
    if compiled and shutil.which("g++") is None:
        pytest.skip("mx.compile on a CPU calls g++")

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(16, 16, bias=False) for _ in range(8)]

        def __call__(self, x: mx.array) -> mx.array:
            for layer in self.layers:
                x = mx.sin(layer(x))  # two arrays to keep
            return x

    x = mx.random.normal((4096, 16), key=mx.random.key(0))
    blocks = [Block() for _ in range(8)]
    model = nn.Sequential(*blocks)

    def peak(recompute: bool) -> tuple[float, Any]:
        def loss(x: mx.array) -> mx.array:
            for block in blocks:
                x = recomputed(block, x) if recompute else block(x)
            return x.square().sum()

        step = nn.value_and_grad(model, loss)
        step = mx.compile(step, inputs=[model.state], outputs=[model.state]) if compiled else step
        mx.eval(model.state, step(x))
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        found = step(x)
        mx.eval(found)
        return (mx.get_peak_memory() - before) / x.nbytes, found

    limit = mx.set_memory_limit(1)  # nothing runs ahead of what it needs
    try:
        (plain, expected), (less, found) = peak(False), peak(True)
    finally:
        mx.set_memory_limit(limit)
    assert plain >= 8 * 8 * 2
    assert less <= 8 + 8 * 2 + 6  # mx.checkpoint: 51
    for a, b in zip(tree_flatten(found), tree_flatten(expected), strict=True):
        np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-6 * np.abs(np.array(b[1])).max(), err_msg=a[0])


def test_a_block_without_trainable_parameters_hands_its_gradient_on() -> None:
    x = mx.random.normal((2, 3), key=mx.random.key(0))
    frozen = nn.Linear(3, 3).freeze()
    expected = mx.grad(lambda x: frozen(x).square().sum())(x)
    assert mx.allclose(mx.grad(lambda x: recomputed(frozen, x).square().sum())(x), expected)


def test_recompute_refuses_a_dropout_that_it_cannot_repeat() -> None:
    args = UNet3dArgs(widths=(8, 16), recompute=True)
    model = build_model("unet3d", args, 1, 2)
    model.encoder[0].blocks[0].drop = type("OtherDropout", (nn.Dropout3d,), {})(0.5)
    x = mx.zeros((1, 8, 8, 8, 1))
    with pytest.raises(ValueError, match=r"nn.Dropout3d; got OtherDropout: set model.args.recompute=false"):
        model(x)
    model.eval()
    model(x)  # nothing is recomputed in evaluation
