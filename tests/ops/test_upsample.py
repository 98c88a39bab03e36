"""Both forms against MLX's layer, values and gradients."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ops.upsample import upsample3d
from tests.ops.convolution.checks import draw

CASES = [
    ((2, 3, 4, 5, 3), (2, 2, 2)),
    ((1, 4, 3, 2, 16), (1, 2, 2)),
    ((1, 1, 2, 3, 33), (4, 1, 3)),
    ((1, 2, 2, 2, 1), (1, 1, 1)),
]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("shape", "scale"), CASES)
def test_equals_mlx_layer(form, shape, scale, mode):
    x = draw(shape, seed=0)
    layer = nn.Upsample(tuple(float(s) for s in scale), mode=mode)
    expected = layer(x)
    g = draw(expected.shape, seed=1)
    ours = mx.vjp(lambda x: upsample3d(x, scale, mode), [x], [g])
    theirs = mx.vjp(layer, [x], [g])
    np.testing.assert_allclose(ours[0][0], theirs[0][0], atol=1e-5)
    np.testing.assert_allclose(ours[1][0], theirs[1][0], atol=1e-5)


def test_linear_by_hand(form):
    x = mx.array([0.0, 4, 8]).reshape(1, 1, 1, 3, 1)
    y = upsample3d(x, (1, 1, 2), "linear")
    assert y.flatten().tolist() == [0, 1, 3, 5, 7, 8]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_bfloat16_is_float32_rounded_once(form, mode):
    x = draw((1, 3, 3, 3, 16), seed=0).astype(mx.bfloat16)
    y = upsample3d(x, 2, mode)
    assert y.dtype == mx.bfloat16
    assert mx.array_equal(y, upsample3d(x.astype(mx.float32), 2, mode).astype(mx.bfloat16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "cubic"}, "mode='cubic' must be one of nearest, linear"),
        ({"scale": (2, 0, 2)}, r"scale=\(2, 0, 2\) must be one positive integer or three"),
        ({"scale": (1.5, 2, 2)}, r"scale=\(1.5, 2, 2\) must be one positive integer or three"),
        ({"x": mx.ones((2, 2, 2, 1))}, r"x must be \(N, D, H, W, C\), got \(2, 2, 2, 1\)"),
    ],
)
def test_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        upsample3d(**{"x": mx.ones((1, 2, 2, 2, 1)), "scale": 2, **arguments})
