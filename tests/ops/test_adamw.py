"""Both forms against float64 and MLX's optimiser."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest

from ops import adamw, backend, global_norm, move_towards

pytestmark = pytest.mark.usefixtures("form")


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def constants(step, decay=0.1, scale=1.0):
    scalars = {"scale": mx.array(scale), "learning_rate": mx.array(0.01), "step": mx.array(step, mx.uint64)}
    return {**scalars, "betas": (0.9, 0.999), "eps": 1e-8, "decay": decay}


@pytest.mark.parametrize("shape", [(), (7,), (5, 3, 3, 3, 129), (3, 16384)])
def test_five_steps_equal_float64_and_mlx(shape):
    p, m, v = mx.array(draw(shape, 0)), mx.zeros(shape), mx.zeros(shape)
    reference = optim.AdamW(0.01, [0.9, 0.999], weight_decay=0.1, bias_correction=True)
    mlx = {"p": p}
    exact_p, exact_m, exact_v = np.array(p, np.float64), np.zeros(shape), np.zeros(shape)
    for step in range(1, 6):
        g = draw(shape, step)
        p, m, v = adamw(p, mx.array(g), m, v, **constants(step, scale=0.5))
        mlx = reference.apply_gradients({"p": 0.5 * mx.array(g)}, mlx)
        g = 0.5 * g.astype(np.float64)
        exact_m, exact_v = 0.9 * exact_m + 0.1 * g, 0.999 * exact_v + 0.001 * g**2
        corrected = (exact_m / (1 - 0.9**step)) / (np.sqrt(exact_v / (1 - 0.999**step)) + 1e-8)
        exact_p = exact_p * (1 - 0.01 * 0.1) - 0.01 * corrected
    np.testing.assert_allclose(np.array(p), exact_p, atol=1e-6)
    np.testing.assert_allclose(np.array(m), exact_m, atol=1e-6)
    np.testing.assert_allclose(np.array(v), exact_v, atol=1e-6)
    np.testing.assert_allclose(np.array(p), np.array(mlx["p"]), atol=1e-6)


def test_decay_leads_to_the_start_and_the_parameter_given_keeps_its_values() -> None:
    """Without a gradient: p - lr · decay · (p - start)."""
    p, start, zeros = mx.array([4.0, 1.0]), mx.array([2.0, 3.0]), mx.zeros(2)
    new, _, _ = adamw(p, zeros, zeros, mx.zeros(2), start, **constants(1, decay=10.0))
    np.testing.assert_allclose(np.array(new), [3.8, 1.2], rtol=1e-6)
    np.testing.assert_array_equal(np.array(start), [2, 3])
    p, m, v = mx.array(draw(5000, 0)), mx.zeros(5000), mx.zeros(5000)
    before = np.array(p)
    new, _, _ = adamw(p, mx.array(draw(5000, 1)), m, v, **constants(1))
    np.testing.assert_array_equal(np.array(p), before)
    assert not np.array_equal(np.array(new), before)
    gradient = mx.where(mx.arange(5000) == 17, mx.nan, 1.0)
    p, _, _ = adamw(mx.zeros(5000), gradient, mx.zeros(5000), mx.zeros(5000), **constants(1))
    assert np.flatnonzero(np.isnan(np.array(p))).tolist() == [17]
    assert np.isnan(global_norm([gradient]).item())


def test_the_norm_is_over_all_arrays(form):
    arrays = [draw((3, 16384), 0), draw((), 1), draw((0, 4), 2), draw((40001,), 3) * 100]
    exact = np.sqrt(sum(np.square(a.astype(np.float64)).sum() for a in arrays))
    found = global_norm([mx.array(a) for a in arrays])
    assert found.dtype == mx.float32
    assert found.item() == pytest.approx(exact, rel=1e-7 if form == "onednn" else 1e-5)
    assert global_norm([]).item() == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads, monkeypatch):
    arrays = [mx.array(draw((100_001,), seed)) for seed in range(3)]
    norm = global_norm(arrays[:1]).item()
    new = np.array(move_towards(*arrays[:2], mx.array(0.3)))
    monkeypatch.setattr(backend, "_threads", threads)
    assert global_norm(arrays[:1]).item() == norm
    np.testing.assert_array_equal(np.array(move_towards(*arrays[:2], mx.array(0.3))), new)


@pytest.mark.parametrize("dtype", [mx.float32, mx.int32])
def test_moving_towards_is_a_share_of_the_way(dtype):
    moved = move_towards(mx.array([1, 2], dtype), mx.array([5, -2], dtype), mx.array(0.25))
    np.testing.assert_allclose(np.array(moved), [2, 1], rtol=1e-6)
