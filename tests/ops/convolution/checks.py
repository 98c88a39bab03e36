"""What the tests of both convolutions share: run a form, and compare both with float64."""

import mlx.core as mx
import numpy as np
import pytest

from ops import backend

EPSILON = {mx.float32: 2.0**-24, mx.bfloat16: 2.0**-9}


def use(monkeypatch, form):
    """Run the operators in this form, if it runs here."""
    if form == "onednn":
        try:
            backend.choose("onednn")
        except OSError as error:
            pytest.skip(str(error))
    monkeypatch.setattr(backend, "_form", form)


def draw(shape, dtype=mx.float32, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)


def float64(a):
    return np.array(a.astype(mx.float32)).astype(np.float64)


def results(monkeypatch, form, function, arrays, cotangent):
    """The value of function(*arrays), and the gradients of its product with the cotangent."""
    use(monkeypatch, form)
    values, gradients = mx.vjp(lambda *a: function(*a), arrays, [cotangent])
    assert values[0].dtype == arrays[0].dtype
    assert [g.dtype for g in gradients] == [a.dtype for a in arrays]
    return [float64(a) for a in (*values, *gradients)]


def assert_as_exact_as_plain(monkeypatch, function, arrays, cotangent, expected):
    """Errors against float64, by the size of the result: at most 4 times those of MLX's own operators."""
    plain = results(monkeypatch, "mlx", function, arrays, cotangent)
    ours = results(monkeypatch, "onednn", function, arrays, cotangent)
    names = ("y", "dx", "dweight", "dbias")[: 1 + len(arrays)]
    for name, want, theirs, got in zip(names, expected, plain, ours, strict=True):
        scale = abs(want).max()
        error, allowed = abs(got - want).max() / scale, abs(theirs - want).max() / scale
        # two roundings of the result are always allowed: where plain MLX is exact, 4 times nothing is nothing
        assert error <= 4 * allowed + 2 * EPSILON[arrays[0].dtype], f"{name}: {error:.1e}, MLX {allowed:.1e}"
