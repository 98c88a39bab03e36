"""Every form of plain MLX's convolutions, on the CPU: values and gradients against float64, memory, and what runs."""

import functools
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from models.layers.gradient_checkpointing import recomputed
from ops.conv3d import conv3d
from ops.conv_transpose3d import conv_transpose3d
from ops.convolution import plain, rules
from tests.ops.convolution.checks import draw, float64, use
from tests.ops.convolution.reference import (
    conv,
    conv_gradients,
    conv_transpose,
    conv_transpose_gradients,
    output_size,
    transposed_size,
)

ATOL = {mx.float32: 4e-6, mx.bfloat16: 3 * 2.0**-9}  # of a result's largest number

# (batch, size, channels in, out), kernel, stride, padding, dilation
CASES = [
    ((2, (5, 6, 7), 5, 3), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((2, (5, 6, 7), 5, 3), (1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((1, (4, 5, 6), 5, 3), (1, 1, 1), (1, 2, 3), (1, 0, 1), (1, 1, 1)),
    ((2, (5, 6, 7), 6, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((2, (6, 8, 4), 6, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((2, (5, 7, 9), 6, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, (8, 5, 7), 5, 4), (3, 3, 3), (1, 2, 3), (0, 1, 2), (1, 1, 1)),
    ((1, (5, 5, 5), 5, 4), (3, 3, 3), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
    ((1, (8, 7, 6), 5, 4), (3, 3, 3), (2, 2, 2), (0, 0, 0), (1, 1, 1)),  # voxels at the end that nothing reads
    ((1, (6, 7, 8), 5, 4), (5, 5, 5), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    ((1, (7, 6, 9), 5, 4), (5, 5, 5), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ((2, (9, 7, 8), 1, 6), (7, 7, 7), (2, 2, 2), (3, 3, 3), (1, 1, 1)),
    ((2, (3, 9, 8), 3, 6), (3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1)),
    ((1, (7, 8, 9), 5, 4), (7, 7, 7), (1, 1, 1), (3, 3, 3), (1, 1, 1)),
    ((2, (4, 6, 7), 6, 5), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1)),
    ((2, (4, 6, 7), 6, 5), (1, 3, 3), (2, 2, 2), (0, 1, 1), (1, 1, 1)),  # phases that no tap meets
    ((1, (6, 3, 4), 6, 5), (3, 1, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1)),
    ((1, (9, 8, 7), 5, 4), (3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    ((2, (9, 8, 7), 5, 4), (3, 3, 3), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    ((1, (9, 10, 7), 5, 4), (3, 2, 3), (2, 3, 4), (3, 0, 2), (3, 2, 2)),
    ((1, (1, 2, 1), 5, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),  # phases that are padding alone
    ((1, (4, 4, 4), 5, 4), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1)),
    ((1, (5, 4, 3), 5, 4), (2, 2, 2), (3, 3, 3), (0, 0, 0), (1, 1, 1)),
]
# (batch, size, channels in, out), kernel, stride, padding, output padding
TRANSPOSED = [
    ((2, (3, 4, 5), 6, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)),
    ((1, (4, 3, 5), 6, 3), (1, 2, 3), (1, 2, 3), (0, 0, 0), (0, 0, 0)),
    ((1, (3, 4, 3), 5, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, (2, 3, 4), 5, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
]


@pytest.fixture(params=["metal", "cuda", "cpu"])
def on(request, monkeypatch):
    """Run a device's forms, on the CPU."""
    use(monkeypatch, "mlx")
    monkeypatch.setattr(rules, "device", lambda: request.param)
    return request.param


@pytest.fixture
def unfold_nothing(monkeypatch):
    """Take every layer for a large one."""
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", 1)


def convolution(case, dtype):
    """The operator, its arrays, the gradient of its result, and the float64 results."""
    (n, size, i, o), kernel, *geometry = case
    x, w, b = draw((n, *size, i), dtype), draw((o, *kernel, i), dtype, seed=1), draw((o,), seed=2)
    dy = draw((n, *output_size(x, w, *geometry), o), dtype, seed=3)
    exact = float64(x), float64(w), float64(dy)
    expected = [conv(*exact[:2], *geometry) + float64(b), *conv_gradients(*exact, *geometry)]
    options = dict(zip(("stride", "padding", "dilation"), geometry, strict=True))
    arrays = [x, w.astype(mx.float32), b]
    return functools.partial(conv3d, **options), arrays, dy, [*expected, exact[2].sum((0, 1, 2, 3))]


def transposed_convolution(case, dtype):
    (n, size, i, o), kernel, stride, padding, extra = case
    x, w, b = draw((n, *size, i), dtype), draw((o, *kernel, i), dtype, seed=1), draw((o,), seed=2)
    dy = draw((n, *transposed_size(x, w, stride, padding, extra), o), dtype, seed=3)
    exact = float64(x), float64(w), float64(dy)
    y = conv_transpose(*exact[:2], stride, padding, extra) + float64(b)
    expected = [y, *conv_transpose_gradients(*exact, stride, padding), exact[2].sum((0, 1, 2, 3))]
    operator = functools.partial(conv_transpose3d, stride=stride, padding=padding, output_padding=extra)
    return operator, [x, w.astype(mx.float32), b], dy, expected


def results(operator, arrays, dy):
    """The value and the gradients for x, weight and bias."""

    def loss(*arrays):
        y = operator(*arrays)
        return (y * dy).sum(), y

    (_, y), gradients = mx.value_and_grad(loss, argnums=(0, 1, 2))(*arrays)
    return [y, *gradients]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [*CASES, *TRANSPOSED])
def test_values_and_gradients(on, unfold_nothing, case, dtype):
    make = transposed_convolution if case in TRANSPOSED else convolution
    operator, arrays, dy, expected = make(case, dtype)
    got = results(operator, arrays, dy)
    assert [a.dtype for a in got] == [dtype, dtype, mx.float32, mx.float32]
    for name, array, want in zip(("y", "dx", "dweight", "dbias"), got, expected, strict=True):
        tolerance = (1e-6 if name == "dbias" else ATOL[dtype]) * abs(want).max()
        np.testing.assert_allclose(float64(array), want, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_a_compiled_step_gives_the_same(on, unfold_nothing, dtype):
    cases = [convolution(case, dtype)[:3] for case in CASES] + [
        transposed_convolution(c, dtype)[:3] for c in TRANSPOSED
    ]

    def step(arrays):
        return [results(operator, own, dy) for (operator, _, dy), own in zip(cases, arrays, strict=True)]

    arrays = [own for _, own, _ in cases]
    for case, ours, compiled in zip([*CASES, *TRANSPOSED], step(arrays), mx.compile(step)(arrays), strict=True):
        for a, b in zip(ours, compiled, strict=True):
            # what is compiled adds the bias before it rounds
            tolerance = ATOL[dtype] * mx.abs(a).max().item()
            np.testing.assert_allclose(float64(a), float64(b), rtol=0, atol=tolerance, err_msg=str(case))


def test_bias_gradient_of_bfloat16_is_summed_in_float32(on):
    x, w, b = mx.ones((1, 16, 16, 16, 1), mx.bfloat16), mx.zeros((2, 1, 1, 1, 1)), mx.zeros((2,))
    db = mx.grad(lambda b: (conv3d(x, w, b) * 1.0).sum())(b)
    assert db.tolist() == [4096, 4096]  # a sum in bfloat16 stops at 256


def calls(monkeypatch, name):
    made = []
    function = getattr(plain, name)
    monkeypatch.setattr(plain, name, lambda *arguments: (made.append(name), function(*arguments))[1])
    return made


def test_a_gradient_that_is_off_is_not_computed(monkeypatch, unfold_nothing):
    use(monkeypatch, "mlx")
    rows, phases = calls(monkeypatch, "by_rows"), calls(monkeypatch, "by_phases")
    x, w = draw((1, 6, 6, 6, 8)), draw((4, 3, 3, 3, 8), seed=1)

    def run(**options):
        rows.clear(), phases.clear()
        loss = lambda x, w: (conv3d(x, w, stride=2, padding=1, **options) ** 2).sum()  # noqa: E731
        gradients = mx.grad(loss, argnums=(0, 1))(x, w)
        return len(phases), len(rows), [mx.any(g != 0).item() for g in gradients]

    assert run() == (1, 1, [True, True])
    assert run(input_grad=False) == (0, 1, [False, True])
    assert run(weight_grad=False) == (1, 0, [True, False])


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_gradients_are_the_same(monkeypatch, unfold_nothing, compiled):
    use(monkeypatch, "mlx")

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv3d(5, 6, 3, 2, 1), nn.ConvTranspose3d(6, 5, 2, 2)

        def __call__(self, x):
            down, up = self.down, self.up
            x = mx.maximum(conv3d(x, down.weight, down.bias, stride=2, padding=1), 0)
            return conv_transpose3d(x, up.weight, up.bias, stride=2)

    block, x = Block(), draw((2, 6, 8, 6, 5))

    def gradients(run):
        step = nn.value_and_grad(block, lambda x: (run(x) ** 2).mean())
        return step(x) if not compiled else mx.compile(step, inputs=block.state, outputs=block.state)(x)

    (loss, plain), (loss_again, again) = gradients(block), gradients(lambda x: recomputed(block, x))
    np.testing.assert_allclose(loss.item(), loss_again.item(), rtol=1e-6)
    for layer, name in (("down", "weight"), ("down", "bias"), ("up", "weight"), ("up", "bias")):
        want = np.array(plain[layer][name])
        np.testing.assert_allclose(np.array(again[layer][name]), want, rtol=0, atol=1e-6 * abs(want).max())


def peak(function, *arrays):
    """Bytes above what was active before, under a limit that makes MLX wait for what it can free."""
    before = mx.set_memory_limit(1_000_000), mx.set_cache_limit(0)
    try:
        mx.eval(arrays)
        active = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(function(*arrays))
        return mx.get_peak_memory() - active
    finally:
        mx.set_memory_limit(before[0])
        mx.set_cache_limit(before[1])


@pytest.mark.parametrize(("stride", "most"), [(1, 2.5), (2, 1.4)])
def test_weight_gradient_takes_padded_copies_not_an_unfold(monkeypatch, unfold_nothing, stride, most):
    use(monkeypatch, "mlx")
    x, w = draw((1, 32, 32, 32, 16)), draw((16, 3, 3, 3, 16))
    dy = draw((1, *(32 // stride,) * 3, 16), seed=1)

    def ours(x, w, dy):
        return mx.vjp(lambda w: conv3d(x, w, stride=stride, padding=1, input_grad=False), [w], [dy])[1]

    assert peak(ours, x, w, dy) < most * x.nbytes


def test_weight_gradient_of_an_image_layer_is_unfolded_in_slabs(monkeypatch):
    use(monkeypatch, "mlx")
    x, w, dy = draw((1, 32, 32, 32, 1)), draw((8, 5, 5, 5, 1)), draw((1, 32, 32, 32, 8), seed=1)
    whole = 32**3 * 125 * 4

    def ours(x, w, dy):
        return mx.vjp(lambda w: conv3d(x, w, padding=2, input_grad=False), [w], [dy])[1]

    assert peak(ours, x, w, dy) > whole
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", whole // 8)
    assert peak(ours, x, w, dy) < 0.25 * whole


def test_input_gradient_of_a_strided_convolution_unfolds_nothing(monkeypatch, unfold_nothing):
    use(monkeypatch, "mlx")
    x, w, dy = draw((1, 32, 32, 32, 16)), draw((16, 1, 3, 1, 16)), draw((1, 32, 16, 32, 16), seed=1)
    monkeypatch.setattr(mx, "conv_general", lambda dy, *_, **__: dy + 0)  # a GPU's takes no more than its output

    def ours(x, w, dy):
        return mx.vjp(lambda x: conv3d(x, w, stride=(1, 2, 1), padding=(0, 1, 0), weight_grad=False), [x], [dy])[1]

    assert peak(ours, x, w, dy) < 2.2 * x.nbytes  # the phases, and the phases interleaved


@pytest.mark.parametrize("case", CASES)
def test_no_phase_is_padded_at_the_end_of_its_depth_alone(monkeypatch, unfold_nothing, case):
    """MLX's Metal backend takes a convolution without padding before D for one without any, and reads past the end."""
    use(monkeypatch, "mlx")
    paddings = []
    convolve = mx.conv_general

    def spy(*arrays, padding, **options):
        paddings.append((padding[0][0], padding[1][0]))
        return convolve(*arrays, padding=padding, **options)

    operator, arrays, dy, _ = convolution(case, mx.float32)
    monkeypatch.setattr(mx, "conv_general", spy)
    mx.vjp(lambda x: operator(x, *arrays[1:], weight_grad=False), arrays[:1], [dy])
    assert not [pad for pad in paddings if pad[0] <= 0 < pad[1]]


def test_gradients_of_a_chain_come_layer_by_layer(monkeypatch, unfold_nothing):
    """The weights' gradients are not left for the end, when every layer's input and gradient would still be held."""
    use(monkeypatch, "mlx")
    x, weights = draw((1, 16, 16, 16, 16)), [draw((16, 1, 1, 1, 16), seed=i) / 4 for i in range(12)]

    def ours(x, *weights):
        def loss(*weights):
            y = x
            for w in weights:
                y = conv3d(y, w)
            return y.sum()

        return mx.grad(loss, argnums=tuple(range(12)))(*weights)

    assert peak(ours, x, *weights) < 15.5 * x.nbytes  # 12 layers' inputs, and three arrays for the gradients


@pytest.mark.parametrize("stride", [1, 2])
def test_cudnn_is_asked_for_a_weight_gradient(monkeypatch, stride):
    """MLX's CUDA backend takes a convolution for one where both arrays are transposed and the kernel is the larger."""
    use(monkeypatch, "mlx")
    monkeypatch.setattr(rules, "device", lambda: "cuda")
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", 1)
    asked = []
    monkeypatch.setattr(
        mx, "conv_general", lambda x, w, **k: asked.append((x.shape, w.shape, k)) or mx.zeros((6, 3, 3, 3, 4))
    )
    x, w = draw((2, 8, 8, 8, 6)), draw((4, 3, 3, 3, 6))
    mx.grad(lambda w: conv3d(x, w, stride=stride, padding=1).sum())(w)
    (x_shape, w_shape, options), size = asked[0], 8 // stride
    assert x_shape == (6, 8, 8, 8, 2)
    assert w_shape == (4, *(size,) * 3, 2)
    assert w_shape[2] > 3  # the kernel's size, which the result has
    assert options["kernel_dilation"] == (stride,) * 3
    assert math.prod(options["stride"]) == 1
