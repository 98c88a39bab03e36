"""Schedules, weight decay and clipping against hand arithmetic."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from configs.schema.train import OptimConfig
from engine.training.optim import (
    build_optimizer,
    build_schedule,
    clip_factor,
    global_norm,
    update_in_place,
    updates_in_place,
)
from ops import backend


@pytest.mark.parametrize(
    ("steps", "config", "expected"),
    [
        ([0, 1, 3, 4, 9], {"schedule": "constant", "warmup_steps": 4}, [0.5, 1.0, 2.0, 2.0, 2.0]),
        ([2, 6, 10, 99], {"schedule": "cosine", "warmup_steps": 2, "final_factor": 0.1}, [2.0, 1.1, 0.2, 0.2]),
        ([0, 5, 10], {"schedule": "poly", "poly_power": 0.9}, [2.0, 2 * 0.5**0.9, 0.0]),
    ],
)
def test_schedules_by_hand(steps: list[int], config: dict[str, object], expected: list[float]) -> None:
    schedule = build_schedule(OptimConfig(learning_rate=2.0, **config), 10)
    assert [schedule(mx.array(step, mx.uint64)).item() for step in steps] == pytest.approx(expected)


def test_schedules_are_not_frozen_by_compile_and_leave_steps_after_the_warmup() -> None:
    schedule = mx.compile(build_schedule(OptimConfig(schedule="cosine"), 10))
    assert [schedule(mx.array(s)).item() for s in (0, 5)] == pytest.approx([1e-3, 5e-4])
    with pytest.raises(ValueError, match=r"optim\.warmup_steps=10 must be below the run's 10 steps"):
        build_schedule(OptimConfig(warmup_steps=10), 10)


def _update(gradient: float, **config: object) -> tuple[float, float]:
    """One step from weight 1 and bias 1, both with this gradient."""
    model = nn.Module()
    model.layers = [{"bias": mx.array([1.0])}, {"weight": mx.array([[1.0]])}]
    optimizer = build_optimizer(OptimConfig(schedule="constant", **config), 10)
    optimizer.init(model.trainable_parameters())
    gradients = {"layers": [{"bias": mx.array([gradient])}, {"weight": mx.array([[gradient]])}]}
    optimizer.update(model, gradients)
    return model.layers[1]["weight"].item(), model.layers[0]["bias"].item()


def test_first_steps_of_adamw_and_sgd_by_hand() -> None:
    # the first corrected step is the learning rate times the gradient's sign
    weight, bias = _update(0.25, learning_rate=0.1, weight_decay=0.5)
    assert weight == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-6)
    assert bias == pytest.approx(1 - 0.1, abs=1e-6)
    weight, bias = _update(0.25, name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    assert bias == pytest.approx(1 - 0.1 * (0.25 + 0.9 * 0.25), abs=1e-6)
    assert weight == pytest.approx(1 - 0.1 * 1.9 * (0.25 + 0.5), abs=1e-6)
    assert _update(0.25, name="sgd", learning_rate=0.1, momentum=0, weight_decay=0)[0] == pytest.approx(0.975)


def test_norm_is_global_and_clipping_one_factor_for_all() -> None:
    norm = global_norm({"a": mx.array([3.0, 0.0]), "b": [mx.array([4.0])]})
    assert norm.item() == 5
    assert clip_factor(norm, 1.0).item() == pytest.approx(0.2)
    assert clip_factor(norm, 6.0).item() == 1
    assert clip_factor(norm, None).item() == 1
    assert math.isnan(global_norm({"a": mx.array([math.nan])}).item())


def _network() -> nn.Module:
    mx.random.seed(0)
    return nn.Sequential(nn.Conv3d(2, 5, 3), nn.Sequential(nn.Linear(300, 70), nn.Linear(70, 3)))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updating_in_place_does_what_the_optimiser_does(decay: float, monkeypatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", "onednn")
    config = OptimConfig(learning_rate=0.01, warmup_steps=2, weight_decay=decay)
    plain, fast = _network(), _network()
    optimizers = [build_optimizer(config, 10) for _ in range(2)]
    for optimizer, model in zip(optimizers, (plain, fast), strict=True):
        optimizer.init(model.trainable_parameters())
    for step in range(6):
        draw = np.random.default_rng(step).standard_normal
        gradients = tree_map(lambda p: mx.array(draw(p.shape).astype(np.float32)), plain.parameters())  # noqa: B023
        flat = dict(tree_flatten(gradients))
        optimizers[0].update(plain, tree_map(lambda g: g * 0.5, gradients))
        update_in_place(optimizers[1], fast, flat, mx.array(0.5))
        assert flat == {}
    assert optimizers[0].learning_rate.item() == optimizers[1].learning_rate.item()
    trees = [(plain.parameters(), fast.parameters()), (optimizers[0].state, optimizers[1].state)]
    for expected, found in trees:
        found = dict(tree_flatten(found))
        assert len(found) >= 6
        for name, value in tree_flatten(expected):
            np.testing.assert_allclose(np.array(found[name]), np.array(value), atol=1e-6, err_msg=name)


def test_what_is_updated_in_place(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "onednn")
    assert updates_in_place(build_optimizer(OptimConfig(), 10))
    assert not updates_in_place(build_optimizer(OptimConfig(name="sgd"), 10))
    monkeypatch.setattr(backend, "_form", "mlx")
    assert not updates_in_place(build_optimizer(OptimConfig(), 10))
