"""A step under `mx.compile` is the uncompiled step, dropout rate changed in mid-run and evaluation in between."""

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from models import build_model
from models.layers.dropout import set_rate
from models.unet3d import Dropout, UNet3dArgs
from tests.engine.doubles import needs_compiler


def _losses(args: UNet3dArgs, compiled: bool, change_rate: bool = True) -> list[float]:
    mx.random.seed(0)
    model = build_model("unet3d", args, 1, 2)
    optimizer = optim.SGD(0.05)
    x = mx.random.normal((2, 8, 8, 8, 1))
    value_and_grad = nn.value_and_grad(model, lambda x: (model(x) - x).square().mean())

    def train(x: mx.array) -> mx.array:
        loss, gradients = value_and_grad(x)
        optimizer.update(model, gradients)
        return loss

    if compiled:
        state: list[Any] = [model.state, optimizer.state, mx.random.state]
        train = partial(mx.compile, inputs=state, outputs=state)(train)
    losses = []
    for i in range(6):
        if i == 3:
            model.eval()
            losses.append(float(model(x).square().mean()))
            model.train()
            if change_rate:
                set_rate(model, 0.6)
        if i == 5 and change_rate:
            set_rate(model, 0.0)
        losses.append(float(train(x)))
        mx.eval(model.state, optimizer.state)
    return losses


@needs_compiler
@pytest.mark.parametrize("position", ["after_activation", "before_norm"])
def test_compiled_step_honours_a_changed_rate(mlx_ops: None, position: Any) -> None:
    # One level: MLX compiles each fused kernel with a C++ compiler, half a second apiece.
    dropout = Dropout(rate=0.2, places=("bottleneck",), position=position)
    args = UNet3dArgs(widths=(8,), convolutions=1, norm="batch", activation="relu", dropout=dropout, recompute=True)
    plain, compiled = _losses(args, compiled=False), _losses(args, compiled=True)
    np.testing.assert_allclose(compiled, plain, rtol=2e-5)
    unchanged = _losses(args, compiled=False, change_rate=False)
    assert unchanged[:4] == pytest.approx(plain[:4], rel=1e-6)
    assert abs(unchanged[4] - plain[4]) > 1e-4  # the new rate does change the step
