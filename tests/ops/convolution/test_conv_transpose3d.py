import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ops.conv_transpose3d import conv_transpose3d
from tests.ops.convolution.checks import assert_as_exact_as_plain, draw, float64, use
from tests.ops.convolution.reference import conv_transpose, conv_transpose_gradients, transposed_size

# (batch, size, channels in, out), kernel, stride, padding, output padding
CASES = [
    ((2, (3, 4, 5), 16, 16), (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((1, (4, 3, 3), 33, 17), (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((2, (4, 3, 5), 3, 1), (1, 2, 2), (1, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((1, (5, 4, 3), 1, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    ((2, (3, 4, 3), 7, 16), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, (3, 3, 4), 4, 6), (4, 3, 2), (3, 2, 1), (1, 0, 1), (2, 1, 0)),
    ((1, (4, 4, 4), 5, 9), (1, 1, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0)),
    ((1, (3, 3, 3), 8, 3), (5, 5, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((1, (2, 3, 2), 2, 3), (2, 2, 2), (3, 3, 3), (0, 0, 0), (2, 1, 0)),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "extra"), CASES)
def test_values_and_gradients_are_as_exact_as_mlx(monkeypatch, shape, kernel, stride, padding, extra, dtype):
    n, size, i, o = shape
    x, w, b = draw((n, *size, i), dtype), draw((o, *kernel, i), dtype, seed=1), draw((o,), dtype, seed=2)
    dy = draw((n, *transposed_size(x, w, stride, padding, extra), o), dtype, seed=3)
    exact = [float64(a) for a in (x, w, b, dy)]
    dx, dw = conv_transpose_gradients(exact[0], exact[1], exact[3], stride, padding)
    y = conv_transpose(exact[0], exact[1], stride, padding, extra) + exact[2]
    expected = [y, dx, dw, exact[3].sum((0, 1, 2, 3))]

    def run(x, w, b):
        return conv_transpose3d(x, w, b, stride=stride, padding=padding, output_padding=extra)

    assert_as_exact_as_plain(monkeypatch, run, [x, w, b], dy, expected)


@pytest.mark.parametrize("form", ["mlx", "onednn"])
def test_agrees_with_the_layer(monkeypatch, form):
    use(monkeypatch, form)
    layer = nn.ConvTranspose3d(4, 3, 2, stride=2)
    x = draw((2, 3, 4, 5, 4))
    y = conv_transpose3d(x, layer.weight, layer.bias, stride=layer.stride)
    assert y.shape == (2, 6, 8, 10, 3)
    np.testing.assert_allclose(np.array(y), np.array(layer(x)), atol=1e-5)


@pytest.mark.parametrize("form", ["mlx", "onednn"])
def test_weight_grad_off_stops_the_gradient_and_keeps_the_others(monkeypatch, form):
    use(monkeypatch, form)
    arrays = draw((1, 3, 3, 3, 4)), draw((2, 2, 2, 2, 4), seed=1), draw((2,), seed=2)

    def gradients(weight_grad):
        def loss(*arrays):
            return (conv_transpose3d(*arrays, stride=2, weight_grad=weight_grad) ** 2).sum()

        return mx.grad(loss, argnums=(0, 1, 2))(*arrays)

    full, stopped = gradients(True), gradients(False)
    assert abs(stopped[1]).max().item() == 0
    assert mx.array_equal(stopped[0], full[0])
    assert mx.array_equal(stopped[2], full[2])


def test_float32_weights_keep_their_gradients_dtype(monkeypatch):
    use(monkeypatch, "onednn")
    x, w, b = draw((1, 3, 3, 3, 4), mx.bfloat16), draw((2, 2, 2, 2, 4), seed=1), draw((2,), seed=2)
    y, gradients = mx.vjp(lambda *a: conv_transpose3d(*a, stride=2), [x, w, b], [mx.ones((1, 6, 6, 6, 2), mx.bfloat16)])
    assert [a.dtype for a in (*y, *gradients)] == [mx.bfloat16, mx.bfloat16, mx.float32, mx.float32]
    np.testing.assert_allclose(np.array(gradients[2]), [216, 216])
    dw = float64(x).sum((0, 1, 2, 3))  # each input meets each weight once
    np.testing.assert_allclose(np.array(gradients[1]), np.broadcast_to(dw, w.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 2, "output_padding": 2}, r"output_padding \(2, 2, 2\) must be smaller than stride \(2, 2, 2\)"),
        ({"padding": 3}, r"padding \(3, 3, 3\) must be smaller than the kernel \(3, 3, 3\)"),
        ({"padding": 2}, r"padding \(2, 2, 2\) leaves nothing of x of \(2, 2, 2\) voxels"),
    ],
)
def test_shapes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv_transpose3d(mx.zeros((1, 2, 2, 2, 1)), mx.zeros((1, 3, 3, 3, 1)), **arguments)
