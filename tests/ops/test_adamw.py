"""Both forms against MLX's optimiser and float64."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from ops import adamw, backend

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


@pytest.fixture(params=["mlx", "onednn"], autouse=True)
def form(request, monkeypatch):
    if request.param == "onednn":
        pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", request.param)


def draw(shape, step):
    return np.random.default_rng(step).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(7,), (4096,), (5, 3, 3, 3, 129), (3, 16384)])
def test_five_steps_equal_mlx_and_float64(shape):
    p, m, v = mx.array(draw(shape, 0)), mx.zeros(shape), mx.zeros(shape)
    reference = optim.AdamW(0.01, [0.9, 0.999], weight_decay=0.1, bias_correction=True)
    mlx = {"p": p}
    exact_p, exact_m, exact_v = np.array(p, np.float64), np.zeros(shape), np.zeros(shape)
    for step in range(1, 6):
        g = draw(shape, step)
        p, m, v = adamw(p, mx.array(g), m, v, learning_rate=mx.array(0.01), step=mx.array(step), **SETTINGS)
        mlx = reference.apply_gradients({"p": mx.array(g)}, mlx)
        g = g.astype(np.float64)
        exact_m, exact_v = 0.9 * exact_m + 0.1 * g, 0.999 * exact_v + 0.001 * g**2
        corrected = (exact_m / (1 - 0.9**step)) / (np.sqrt(exact_v / (1 - 0.999**step)) + 1e-8)
        exact_p = exact_p * (1 - 0.01 * 0.1) - 0.01 * corrected
    np.testing.assert_allclose(np.array(p), exact_p, atol=2e-6)
    np.testing.assert_allclose(np.array(m), exact_m, atol=1e-6)
    np.testing.assert_allclose(np.array(v), exact_v, atol=1e-6)
    np.testing.assert_allclose(np.array(p), np.array(mlx["p"]), atol=2e-6)


def test_nan_stays_nan():
    nothing = mx.zeros(5000)
    gradient = mx.where(mx.arange(5000) == 17, mx.nan, 1.0)
    p, _, _ = adamw(nothing, gradient, nothing, nothing, learning_rate=mx.array(0.1), step=mx.array(1), **SETTINGS)
    assert np.flatnonzero(np.isnan(np.array(p))).tolist() == [17]
