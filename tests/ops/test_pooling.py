"""Both forms against MLX's layers, values and gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ops import backend
from ops.pooling import avg_pool3d, max_pool3d
from tests.engine.doubles import needs_compiler
from tests.ops.convolution.checks import draw

# shape, kernel, stride, padding
CASES = [
    ((2, 4, 6, 8, 3), 2, None, 0),
    ((1, 5, 7, 6, 16), 3, 2, 1),
    ((1, 5, 4, 6, 33), (1, 2, 3), (1, 2, 1), (0, 1, 1)),
    ((2, 4, 5, 6, 1), 2, 3, 0),
    ((1, 6, 6, 6, 4), 3, 1, 1),
]


@pytest.mark.parametrize(("pool", "layer"), [(max_pool3d, nn.MaxPool3d), (avg_pool3d, nn.AvgPool3d)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CASES)
def test_equals_mlx_layer(form, shape, kernel, stride, padding, ties, pool, layer):
    x = draw(shape, seed=0)
    x = nn.relu(mx.round(x)) if ties else x
    layer = layer(kernel, kernel if stride is None else stride, padding)
    g = draw(layer(x).shape, seed=1)
    ours = mx.vjp(lambda x: pool(x, kernel, stride, padding), [x], [g])
    theirs = mx.vjp(layer, [x], [g])
    np.testing.assert_allclose(ours[0][0], theirs[0][0], atol=1e-6)
    np.testing.assert_allclose(ours[1][0], theirs[1][0], atol=1e-5)


@pytest.mark.parametrize("pool", [max_pool3d, avg_pool3d])
def test_bfloat16(form, pool):
    x = draw((1, 4, 4, 4, 16), seed=0).astype(mx.bfloat16)
    y = pool(x, 2)
    assert y.dtype == mx.bfloat16
    assert mx.allclose(y.astype(mx.float32), pool(x.astype(mx.float32), 2), rtol=2**-7, atol=2**-7)
    gradient = mx.grad(lambda x: pool(x, 2).astype(mx.float32).sum())(x)
    assert gradient.astype(mx.float32).sum().item() == 8 * 16  # each window hands on its whole gradient


def test_maximum_keeps_nan(form):
    x = draw((1, 4, 4, 4, 16), seed=0)
    x[0, 0, 1, 0, 3] = mx.nan
    y = max_pool3d(x, 2)
    assert mx.isnan(y[0, 0, 0, 0, 3])
    assert mx.isnan(y).sum().item() == 1
    gradient = mx.grad(lambda x: mx.where(mx.isnan(max_pool3d(x, 2)), 1.0, max_pool3d(x, 2)).sum())(x)
    assert not gradient[0, :2, :2, :2, 3].any()  # a window without a maximum hands nothing on
    assert gradient.sum().item() == 8 * 16 - 1


def test_a_window_of_minus_infinity_shares_among_its_voxels(form):
    x = mx.full((1, 2, 2, 2, 1), -mx.inf)
    gradient = mx.grad(lambda x: mx.where(max_pool3d(x, 3, 2, 1) > 0, 0.0, max_pool3d(x, 3, 2, 1)).sum())(x)
    assert mx.array_equal(gradient, mx.full(x.shape, 1 / 8))  # not with the padding


@needs_compiler
@pytest.mark.parametrize("pool", [max_pool3d, avg_pool3d])
def test_compiled_mlx_form_is_the_uncompiled(monkeypatch, pool):
    monkeypatch.setattr(backend, "_form", "mlx")
    x = mx.round(draw((1, 5, 7, 6, 16), seed=0))
    step = mx.value_and_grad(lambda x: pool(x, 3, 2, 1).square().sum())
    for plain, compiled in zip(step(x), mx.compile(step)(x), strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": 5}, r"a kernel of \(5, 5, 5\) does not fit into \(4, 4, 4\)"),
        ({"kernel": 2, "padding": 2}, r"padding \(2, 2, 2\) must be at most half of the kernel \(2, 2, 2\)"),
        ({"kernel": 2, "stride": 0}, "must be positive"),
        ({"kernel": 2, "x": mx.ones((4, 4, 4, 1))}, r"x must be \(N, D, H, W, C\), got \(4, 4, 4, 1\)"),
    ],
)
@pytest.mark.parametrize("pool", [max_pool3d, avg_pool3d])
def test_refuses_what_does_not_fit(pool, arguments, message):
    with pytest.raises(ValueError, match=message):
        pool(**{"x": mx.ones((1, 4, 4, 4, 1)), **arguments})
