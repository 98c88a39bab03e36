import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ops.conv3d import conv3d
from ops.cpu.onednn import convolution
from tests.ops.convolution.checks import assert_as_exact_as_plain, draw, float64, results, use
from tests.ops.convolution.reference import conv, conv_gradients, output_size

# (batch, size, channels in, out), kernel, stride, padding, dilation
CASES = [
    ((1, (5, 6, 7), 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((2, (6, 6, 6), 16, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((2, (7, 6, 5), 5, 7), (1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((2, (7, 7, 7), 1, 16), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((1, (5, 7, 6), 16, 16), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((2, (5, 5, 5), 33, 17), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, (6, 7, 5), 2, 33), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, (6, 6, 6), 16, 32), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((2, (8, 5, 7), 3, 4), (3, 3, 3), (1, 2, 3), (0, 1, 2), (1, 1, 1)),
    ((1, (9, 8, 7), 4, 5), (3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    ((2, (9, 6, 7), 3, 16), (3, 3, 3), (2, 1, 1), (2, 0, 1), (2, 1, 3)),
    ((1, (4, 4, 4), 9, 15), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((1, (6, 6, 6), 3, 8), (5, 5, 5), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    ((2, (9, 7, 8), 1, 6), (7, 7, 7), (2, 2, 2), (3, 3, 3), (1, 1, 1)),
    ((1, (3, 9, 9), 3, 10), (3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1)),
    ((2, (4, 6, 6), 12, 5), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)),
    ((1, (6, 3, 3), 6, 13), (3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),
    ((2, (3, 2, 4), 128, 128), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),  # as one matrix product
    ((1, (5, 4, 6), 160, 128), (3, 2, 1), (2, 1, 2), (2, 0, 1), (2, 3, 1)),
    ((2, (3, 3, 3), 31, 1), (3, 3, 3), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((2, (2, 10, 10), 16, 32), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),  # shallower than the kernel
    ((2, (3, 6, 6), 16, 16), (5, 5, 5), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ((2, (3, 6, 6), 16, 16), (3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), CASES)
def test_values_and_gradients_are_as_exact_as_mlx(monkeypatch, shape, kernel, stride, padding, dilation, dtype):
    n, size, i, o = shape
    x, w, b = draw((n, *size, i), dtype), draw((o, *kernel, i), dtype, seed=1), draw((o,), dtype, seed=2)
    geometry = (stride, padding, dilation)
    dy = draw((n, *output_size(x, w, *geometry), o), dtype, seed=3)
    exact = [float64(a) for a in (x, w, b, dy)]
    dx, dw = conv_gradients(exact[0], exact[1], exact[3], *geometry)
    expected = [conv(exact[0], exact[1], *geometry) + exact[2], dx, dw, exact[3].sum((0, 1, 2, 3))]

    def run(x, w, b):
        return conv3d(x, w, b, stride=stride, padding=padding, dilation=dilation)

    assert_as_exact_as_plain(monkeypatch, run, [x, w, b], dy, expected)


@pytest.mark.parametrize("form", ["mlx", "onednn"])
def test_bfloat16_keeps_float32_weights_and_their_gradients(monkeypatch, form):
    x, w, b = draw((1, 4, 4, 4, 16), mx.bfloat16), draw((8, 3, 3, 3, 16)), draw((8,), seed=2)
    dy = draw((1, 4, 4, 4, 8), mx.bfloat16, seed=3)
    y, dx, dw, db = results(monkeypatch, form, lambda *a: conv3d(*a, padding=1), [x, w, b], dy)
    exact = float64(x), float64(w.astype(mx.bfloat16)), float64(dy)
    want_dx, want_dw = conv_gradients(*exact, (1, 1, 1), (1, 1, 1), (1, 1, 1))
    want = conv(*exact[:2], (1, 1, 1), (1, 1, 1), (1, 1, 1)) + float64(b)
    np.testing.assert_allclose(y, want, atol=0.01 * abs(want).max())
    np.testing.assert_allclose(dx, want_dx, atol=0.01 * abs(want_dx).max())
    tolerance = 1e-5 if form == "onednn" else 0.01  # MLX's own gradient passes through bfloat16
    np.testing.assert_allclose(dw, want_dw, atol=tolerance * abs(want_dw).max())
    np.testing.assert_allclose(db, exact[2].sum((0, 1, 2, 3)), atol=tolerance * 20)


def test_bfloat16_is_computed_in_float32_where_the_cpu_lacks_it(monkeypatch):
    use(monkeypatch, "onednn")
    from ops.cpu.onednn import primitives

    x, w = draw((1, 4, 4, 4, 16), mx.bfloat16), draw((8, 3, 3, 3, 16))
    monkeypatch.setattr(primitives.runtime(), "native_bfloat16", False)
    y = conv3d(x, w, padding=1)
    assert y.dtype == mx.bfloat16
    assert mx.array_equal(y, conv3d(x.astype(mx.float32), w, padding=1).astype(mx.bfloat16))


def test_without_bias(monkeypatch):
    x, w = draw((2, 5, 4, 3, 2)), draw((3, 3, 3, 3, 2), seed=1)
    dy = draw((2, 5, 4, 3, 3), seed=2)
    geometry = ((1, 1, 1), (1, 1, 1), (1, 1, 1))
    exact = float64(x), float64(w)
    expected = [conv(*exact, *geometry), *conv_gradients(*exact, float64(dy), *geometry)]
    assert_as_exact_as_plain(monkeypatch, lambda x, w: conv3d(x, w, padding=1), [x, w], dy, expected)


def test_bias_gradient_is_exact_over_many_voxels(monkeypatch):
    x, w, b = draw((1, 64, 64, 64, 1)), draw((3, 1, 1, 1, 1)), draw((3,))
    dy = draw((1, 64, 64, 64, 3)) + 1
    db = results(monkeypatch, "onednn", conv3d, [x, w, b], dy)[3]
    np.testing.assert_allclose(db, float64(dy).sum((0, 1, 2, 3)), rtol=2e-7)  # plain float32 sums: 1e-5


@pytest.mark.parametrize(("off", "which"), [("input_grad", 0), ("weight_grad", 1)])
@pytest.mark.parametrize("form", ["mlx", "onednn"])
def test_a_gradient_that_is_off_is_stopped_and_the_others_stay(monkeypatch, form, off, which):
    use(monkeypatch, form)
    x, w, b = draw((1, 4, 4, 4, 2)), draw((3, 3, 3, 3, 2), seed=1), draw((3,), seed=2)

    def gradients(**options):
        def loss(*arrays):
            return (conv3d(*arrays, padding=1, **options) ** 2).sum()

        return mx.grad(loss, argnums=(0, 1, 2))(x, w, b)

    for i, (full, stopped) in enumerate(zip(gradients(), gradients(**{off: False}), strict=True)):
        assert mx.array_equal(stopped, mx.zeros_like(full) if i == which else full)


@pytest.mark.parametrize(("off", "skipped", "number"), [("input_grad", "data", 1), ("weight_grad", "weights", 0)])
def test_a_gradient_that_is_off_is_not_computed(monkeypatch, off, skipped, number):
    use(monkeypatch, "onednn")
    monkeypatch.setattr(convolution, f"backward_{skipped}", lambda *_: pytest.fail(f"backward_{skipped} was computed"))
    arrays = draw((1, 4, 4, 4, 2)), draw((3, 3, 3, 3, 2))
    mx.eval(mx.grad(lambda *a: conv3d(*a, **{off: False}).sum(), argnums=number)(*arrays))


@pytest.mark.parametrize("form", ["mlx", "onednn"])
def test_strided_and_broadcast_inputs(monkeypatch, form):
    use(monkeypatch, form)
    x = draw((1, 6, 7, 8, 4))
    flipped, cropped = x.transpose(0, 3, 2, 1, 4), x[:, 1:5, ::2, 1:]
    w = mx.broadcast_to(draw((1, 3, 3, 3, 4), seed=1), (2, 3, 3, 3, 4))
    for array in (flipped, cropped):
        want = conv(float64(array), float64(w), (1, 1, 1), (1, 1, 1), (1, 1, 1))
        np.testing.assert_allclose(np.array(conv3d(array, w, padding=1)), want, atol=1e-5)


def test_agrees_with_the_layer(monkeypatch):
    use(monkeypatch, "onednn")
    layer = nn.Conv3d(3, 5, 3, stride=2, padding=1)
    x = draw((2, 7, 6, 5, 3))
    y = conv3d(x, layer.weight, layer.bias, stride=layer.stride, padding=layer.padding)
    np.testing.assert_allclose(np.array(y), np.array(layer(x)), atol=1e-5)


def test_checkpointed_gradients_are_the_same_bits(monkeypatch):
    use(monkeypatch, "onednn")
    x, w1, w2 = draw((2, 6, 6, 6, 4)), draw((8, 3, 3, 3, 4), seed=1), draw((2, 3, 3, 3, 8), seed=2)

    def block(x, w1, w2):
        return conv3d(mx.maximum(conv3d(x, w1, padding=1), 0), w2, padding=1)

    def gradients(function):
        return mx.value_and_grad(lambda *a: (function(*a) ** 2).mean(), argnums=(0, 1, 2))(x, w1, w2)

    (loss, plain), (loss_again, checkpointed) = gradients(block), gradients(mx.checkpoint(block))
    assert loss.item() == loss_again.item()
    assert all(mx.array_equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def test_a_second_run_gives_the_same_bits(monkeypatch):
    x, w, b = draw((2, 9, 10, 11, 16)), draw((16, 3, 3, 3, 16), seed=1), draw((16,), seed=2)
    dy = draw((2, 9, 10, 11, 16), seed=3)
    first, second = (results(monkeypatch, "onednn", lambda *a: conv3d(*a, padding=1), [x, w, b], dy) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_inference_keeps_only_the_result(monkeypatch):
    use(monkeypatch, "onednn")
    w = draw((16, 3, 3, 3, 16))
    mx.eval(w)
    before = mx.get_active_memory()
    x = draw((1, 24, 24, 24, 16))
    y = conv3d(conv3d(x, w, padding=1), w, padding=1)
    mx.eval(y)
    del x
    assert mx.get_active_memory() - before < 1.1 * y.nbytes


@pytest.mark.parametrize("transform", [mx.compile, mx.vmap])
def test_says_how_to_run_where_arrays_have_no_values(monkeypatch, transform):
    use(monkeypatch, "onednn")
    x, w = draw((2, 1, 4, 4, 4, 2)), draw((3, 3, 3, 3, 2))
    with pytest.raises(RuntimeError, match="run the step uncompiled, or choose MLX's own operators"):
        transform(lambda x: conv3d(x.reshape(-1, 4, 4, 4, 2), w))(x)


def test_float16_stays_with_mlx(monkeypatch):
    use(monkeypatch, "onednn")
    monkeypatch.setattr(convolution, "forward", lambda *_: pytest.fail("oneDNN was called"))
    assert conv3d(draw((1, 3, 3, 3, 2), mx.float16), draw((3, 3, 3, 3, 2))).dtype == mx.float16


@pytest.mark.parametrize(
    ("x", "w", "b", "message"),
    [
        ((1, 4, 4, 4, 2), (3, 3, 3, 3, 4), None, r"one I, got x \(1, 4, 4, 4, 2\) and weight \(3, 3, 3, 3, 4\)"),
        ((4, 4, 4, 2), (3, 3, 3, 3, 2), None, r"conv3d: expected x \(N, D, H, W, I\)"),
        ((1, 4, 4, 4, 2), (3, 3, 3, 3, 2), (2,), r"expected bias \(3,\) for weight \(3, 3, 3, 3, 2\), got \(2,\)"),
        ((1, 2, 4, 4, 2), (3, 3, 3, 3, 2), None, r"a kernel of \(3, 3, 3\).* does not fit into x of \(2, 4, 4\)"),
    ],
)
def test_shapes_that_do_not_fit(x, w, b, message):
    with pytest.raises(ValueError, match=message):
        conv3d(mx.zeros(x), mx.zeros(w), None if b is None else mx.zeros(b))
