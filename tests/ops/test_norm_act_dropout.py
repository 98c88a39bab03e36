"""Both forms against float64 MLX, values and gradients; and the properties that training relies on."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from ops import backend
from ops.norm_act_dropout import norm_act_dropout

SHAPES_AND_SLOPES = [
    ((2, 4, 5, 6, 3), 1.0),
    ((2, 4, 5, 6, 3), 0.0),
    ((1, 3, 3, 3, 33), 0.01),
    ((3, 1, 7, 5, 16), 0.0),
    ((2, 1, 1, 1, 4), 0.01),
    ((2, 12, 12, 12, 16), 0.01),
]


def draw(shape, dtype=mx.float32, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    return {
        "x": mx.array(rng.standard_normal(shape) * 2 + 1).astype(dtype),
        "weight": mx.array(rng.standard_normal(channels).astype(np.float32)),
        "bias": mx.array(rng.standard_normal(channels).astype(np.float32)),
        "residual": mx.array(rng.standard_normal(shape)).astype(dtype),
        "mask": mx.array(((rng.random((shape[0], channels)) < 0.7) / 0.7).astype(np.float32)),
        "g": mx.array(rng.standard_normal(shape)).astype(dtype),
    }


def reference(x, weight, bias, residual, mask, norm, groups, slope, statistics):
    """Written from the definition, in the arguments' precision."""
    n, c = x.shape[0], x.shape[-1]
    v = x.reshape(n, -1, groups, c // groups)
    if statistics is None:
        axes = {"instance": (1,), "batch": (0, 1), "group": (1, 3)}[norm]
        mean = v.mean(axes, keepdims=True)
        variance = ((v - mean) ** 2).mean(axes, keepdims=True)
    else:
        mean, variance = (s.reshape(1, 1, groups, -1) for s in statistics)
    weight, bias, mask = (a.reshape(-1, *[1] * (x.ndim - 2), c) for a in (weight, bias, mask))
    v = (((v - mean) / mx.sqrt(variance + 1e-5)).reshape(x.shape) * weight + bias) * mask
    v = v if residual is None else v + residual
    return mx.where(v > 0, v, slope * v), mean, variance


def values_and_gradients(function, inputs, with_residual, transform=lambda step: step):
    names = ["x", "weight", "bias"] + ["residual"] * with_residual

    def loss(*arrays):
        y = function(**{**inputs, "residual": None, **dict(zip(names, arrays, strict=True))})[0]
        return (y * inputs["g"]).sum(), y

    step = transform(mx.value_and_grad(loss, argnums=tuple(range(len(names)))))
    (_, y), gradients = step(*(inputs[n] for n in names))
    results = {"y": y, **dict(zip(names, gradients, strict=True))}
    return {name: np.array(a.astype(mx.float64)) for name, a in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "group", "given"])
@pytest.mark.parametrize(("shape", "slope"), SHAPES_AND_SLOPES)
def test_matches_float64(form, shape, norm, with_residual, slope, per_sample):
    inputs = draw(shape)
    channels, groups, statistics = shape[-1], 1, None
    if norm == "group":
        groups = 3 if channels % 3 == 0 else 2
    if norm == "given":
        norm, statistics = "batch", (inputs["bias"] * 0.1, inputs["weight"] ** 2 + 0.5)
    if per_sample:
        inputs["weight"] = inputs["weight"] * mx.arange(1, shape[0] + 1)[:, None]

    def ours(x, weight, bias, residual, mask, g):
        keywords = {"norm": norm, "groups": groups, "slope": slope, "statistics": statistics}
        return norm_act_dropout(x, weight, bias, mask, residual=residual, **keywords)

    def exact(x, weight, bias, residual, mask, g):
        given = None if statistics is None else [s.astype(mx.float64) for s in statistics]
        return reference(x, weight, bias, residual, mask, norm, groups, slope, given)

    got = values_and_gradients(ours, inputs, with_residual)
    with mx.stream(mx.cpu):
        double = {name: a.astype(mx.float64) for name, a in inputs.items()}
        expected = values_and_gradients(exact, double, with_residual)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=4e-6 * max(1, np.abs(value).max()), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_bfloat16_is_float32_rounded(form, norm, with_residual):
    inputs = draw((2, 4, 5, 6, 16), mx.bfloat16)
    wide = {name: a.astype(mx.float32) for name, a in inputs.items()}

    def run(x, weight, bias, residual, mask, g):
        return norm_act_dropout(
            x, weight, bias, mask, norm=norm, groups=4 if norm == "group" else 1, slope=0.01, residual=residual
        )

    y = run(**inputs)[0]
    assert y.dtype == mx.bfloat16
    got = values_and_gradients(run, inputs, with_residual)
    expected = values_and_gradients(run, wide, with_residual)
    assert np.abs(got["y"] - expected["y"]).max() <= 2**-8 * np.abs(expected["y"]).max()
    for name, value in expected.items():
        # A sum over space keeps the rounding of its terms, which the residual's gradient is stored with.
        np.testing.assert_allclose(got[name], value, atol=2**-7 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_mean_far_above_the_standard_deviation(form, dtype, norm, compiled):
    if compiled and (form == "onednn" or shutil.which("g++") is None):
        pytest.skip("MLX's own operators are compiled, on a CPU by g++")
    inputs = draw((2, 16, 16, 16, 8))
    inputs["x"] = inputs["x"] * 2.0 + 400  # 100 standard deviations of 4, of which bfloat16 leaves steps of 2
    inputs = {name: a.astype(dtype) if name in ("x", "g") else a for name, a in inputs.items()}

    def ours(x, weight, bias, residual, mask, g):
        return norm_act_dropout(x, weight, bias, mask, norm=norm, groups=4 if norm == "group" else 1)

    def exact(x, weight, bias, residual, mask, g):  # no activation, whose corner a rounding takes voxels across
        return reference(x, weight, bias, None, mask, norm, 4 if norm == "group" else 1, 1.0, None)

    got = values_and_gradients(ours, inputs, False, mx.compile if compiled else lambda f: f)
    with mx.stream(mx.cpu):
        expected = values_and_gradients(exact, {name: a.astype(mx.float64) for name, a in inputs.items()}, False)
    for name, value in expected.items():
        # float32 holds a mean of 400 to 2e-5, 8e-6 standard deviations; bfloat16 rounds what is returned once.
        tolerance = 2**-8 if dtype == mx.bfloat16 and name in ("y", "x") else 5e-5
        np.testing.assert_allclose(got[name], value, atol=tolerance * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_mlx_form_keeps_its_input_alone(monkeypatch, compiled):
    if compiled and shutil.which("g++") is None:
        pytest.skip("mx.compile on a CPU calls g++")
    monkeypatch.setattr(backend, "_form", "mlx")
    x, depth = draw((1, 16, 16, 16, 16), mx.bfloat16)["x"], 16

    def loss(x):
        for norm in ("instance", "batch", "group", "batch") * (depth // 4):
            x = norm_act_dropout(x, None, None, norm=norm, groups=4 if norm == "group" else 1, slope=0.01)[0]
        return x.astype(mx.float32).square().sum()

    step = mx.compile(mx.grad(loss)) if compiled else mx.grad(loss)
    limit = mx.set_memory_limit(1)  # nothing runs ahead of what it needs
    try:
        for _ in range(2):  # the second time nothing is compiled
            mx.clear_cache()
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            mx.eval(step(x))
    finally:
        mx.set_memory_limit(limit)
    kept = (mx.get_peak_memory() - before) / x.nbytes
    assert depth - 1 <= kept <= depth + 10


@pytest.mark.parametrize(("norm", "axes", "groups"), [("instance", (1, 2, 3), 1), ("batch", (0, 1, 2, 3), 1)])
def test_returns_the_statistics(form, norm, axes, groups):
    x = draw((3, 4, 5, 6, 7))["x"] + 1000  # far from zero, where squares would cancel
    _, mean, variance = norm_act_dropout(x, None, None, norm=norm)
    exact = np.array(x).astype(np.float64)
    np.testing.assert_allclose(np.array(mean), exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(np.array(variance), exact.var(axes), rtol=1e-5)
    assert mean.dtype == variance.dtype == mx.float32


def test_group_statistics_have_a_value_per_group(form):
    x = draw((3, 4, 5, 6, 8))["x"]
    _, mean, variance = norm_act_dropout(x, None, None, norm="group", groups=2)
    exact = np.array(x).astype(np.float64).reshape(3, -1, 2, 4)
    np.testing.assert_allclose(np.array(mean), exact.mean((1, 3)), rtol=1e-5)
    np.testing.assert_allclose(np.array(variance), exact.var((1, 3)), rtol=1e-5)


def test_dropped_channels_are_zero_and_the_others_scaled(form):
    inputs = draw((2, 3, 3, 3, 4))
    mask = mx.array([[0.0, 2, 0, 2], [2, 2, 0, 0]])
    y = norm_act_dropout(inputs["x"], None, None, mask, slope=0.01)[0]
    kept = norm_act_dropout(inputs["x"], None, None, slope=0.01)[0]
    assert mx.array_equal(y, kept * mask[:, None, None, None])


def test_mask_and_statistics_carry_no_gradient(form):
    inputs = draw((2, 3, 3, 3, 4))
    mean, variance = mx.zeros((4,)), mx.ones((4,))

    def loss(mask, mean, variance):
        y, m, v = norm_act_dropout(inputs["x"], None, None, mask, norm="batch", statistics=(mean, variance))
        return (y * inputs["g"]).sum() + m.sum() + v.sum()

    for gradient in mx.grad(loss, argnums=(0, 1, 2))(inputs["mask"], mean, variance):
        assert not gradient.any()
    gradient = mx.grad(lambda x: sum(s.sum() for s in norm_act_dropout(x, None, None)[1:]))(inputs["x"])
    assert not gradient.any()


def test_checkpoint_gives_the_same_gradients(form):
    inputs = draw((2, 4, 4, 4, 8))

    def loss(x, weight, wrap):
        def block(x, weight):
            return norm_act_dropout(x, weight, inputs["bias"], inputs["mask"], slope=0.01)[0]

        return (wrap(block)(x, weight) * inputs["g"]).sum()

    for wrap in (lambda f: f, mx.checkpoint):
        gradients = mx.grad(loss, argnums=(0, 1))(inputs["x"], inputs["weight"], wrap)
        if wrap is not mx.checkpoint:
            kept = gradients
    assert all(mx.array_equal(a, b) for a, b in zip(kept, gradients, strict=True))


def test_strided_inputs_and_cotangents(form):
    inputs = draw((2, 4, 5, 6, 8))
    turned = inputs["x"].transpose(0, 3, 2, 1, 4)
    straight = mx.contiguous(turned)

    def loss(x):  # a sum's cotangent has strides of zero
        return norm_act_dropout(x, inputs["weight"], inputs["bias"], slope=0.01)[0].sum()

    assert mx.allclose(mx.grad(loss)(turned), mx.grad(loss)(straight), atol=1e-6)


def test_nan_stays_nan(form):
    x = draw((1, 4, 4, 4, 2))["x"]
    x[0, 1, 1, 1, 0] = mx.nan
    y = norm_act_dropout(x, None, None, slope=0.0)[0]
    assert mx.isnan(y[..., 0]).all()
    assert not mx.isnan(y[..., 1]).any()


def test_threads_do_not_change_a_bit(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", "onednn")
    inputs = draw((2, 16, 16, 16, 5))

    def run(x, weight, bias, residual, mask, g):
        return norm_act_dropout(x, weight, bias, mask, slope=0.01)

    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(backend, "_threads", threads)
        results.append(values_and_gradients(run, inputs, False))
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in other)


def test_compiling_the_cpu_form_names_the_way_out(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", "onednn")
    with pytest.raises(RuntimeError, match="ops: mlx"):
        mx.compile(lambda x: norm_act_dropout(x, None, None)[0])(mx.zeros((1, 2, 2, 2, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "layer"}, "norm='layer' must be one of instance, batch, group"),
        ({"norm": "group", "groups": 3}, "groups=3 must divide x's 4 channels"),
        ({"mask": mx.ones((4,))}, r"mask must be \(2, 4\) .* got \(4,\)"),
        ({"weight": mx.ones((3,))}, r"weight must be \(4,\) .* got \(3,\)"),
        ({"residual": mx.ones((2, 3, 3, 3, 4), mx.bfloat16)}, "residual must be .*float32 as x is, got .*bfloat16"),
        ({"statistics": (mx.zeros((4,)), mx.ones((4,)))}, "statistics are for norm='batch'"),
        ({"x": mx.ones((2, 4))}, r"x must be \(N, ..., C\) with an axis of space, got \(2, 4\)"),
    ],
)
def test_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        norm_act_dropout(**{"x": mx.ones((2, 3, 3, 3, 4)), "weight": None, "bias": None, **arguments})
