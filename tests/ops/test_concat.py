import mlx.core as mx
import numpy as np
import pytest

from ops.concat import concat_channels


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(
    ("shape", "channels"), [((2, 3, 4, 5), (16, 16)), ((1, 17, 16, 16), (3, 8)), ((1, 1, 1, 1), (1, 33))]
)
def test_equals_mlx_bit_for_bit(form, shape, channels, dtype):
    rng = np.random.default_rng(0)
    a, b = (mx.array(rng.standard_normal((*shape, c))).astype(dtype) for c in channels)
    g = mx.array(rng.standard_normal((*shape, sum(channels)))).astype(dtype)
    y, gradients = mx.vjp(concat_channels, [a, b], [g])
    assert mx.array_equal(y[0], mx.concatenate([a, b], axis=-1))
    assert mx.array_equal(gradients[0], g[..., : channels[0]])
    assert mx.array_equal(gradients[1], g[..., channels[0] :])


@pytest.mark.parametrize("other", [mx.zeros((1, 2, 2, 3, 4)), mx.zeros((1, 2, 2, 2, 4), mx.bfloat16)])
def test_refuses_what_does_not_fit(other):
    with pytest.raises(ValueError, match=r"must agree in dtype and in all axes but the last, got .*\(1, 2, 2, 2, 4\)"):
        concat_channels(mx.zeros((1, 2, 2, 2, 4)), other)
