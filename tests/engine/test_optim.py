"""Schedules, weight decay and clipping against hand arithmetic."""

import math

import mlx.core as mx
import mlx.nn as nn
import pytest

from configs.train_schema import OptimConfig
from engine.optim import build_optimizer, build_schedule, clip_by_norm, global_norm


def _rates(steps: list[int], total: int = 10, **config: object) -> list[float]:
    schedule = build_schedule(OptimConfig(learning_rate=2.0, **config), total)
    return [schedule(mx.array(step, mx.uint64)).item() for step in steps]


def test_constant_after_linear_warmup() -> None:
    assert _rates([0, 1, 3, 4, 9], schedule="constant", warmup_steps=4) == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_cosine_starts_at_its_peak_is_half_way_in_the_middle_and_ends_at_its_final_factor() -> None:
    rates = _rates([2, 6, 10, 99], schedule="cosine", warmup_steps=2, final_factor=0.1)
    assert rates == pytest.approx([2.0, 1.1, 0.2, 0.2])


def test_poly() -> None:
    assert _rates([0, 5, 10], schedule="poly", poly_power=0.9) == pytest.approx([2.0, 2 * 0.5**0.9, 0.0])


def test_schedule_is_not_frozen_by_compile() -> None:
    schedule = mx.compile(build_schedule(OptimConfig(schedule="cosine"), 10))
    assert [schedule(mx.array(s)).item() for s in (0, 5)] == pytest.approx([1e-3, 5e-4])


def test_warmup_must_leave_steps() -> None:
    with pytest.raises(ValueError, match=r"optim\.warmup_steps=10 must be below the run's 10 steps"):
        build_schedule(OptimConfig(warmup_steps=10), 10)


class _Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [{"bias": mx.array([1.0])}, {"weight": mx.array([[1.0]])}]


def _update(gradient: float, **config: object) -> tuple[float, float]:
    """One step from weight 1 and bias 1, both with this gradient."""
    model = _Affine()
    optimizer = build_optimizer(OptimConfig(schedule="constant", **config), 10)
    optimizer.init(model.trainable_parameters())
    gradients = {"layers": [{"bias": mx.array([gradient])}, {"weight": mx.array([[gradient]])}]}
    optimizer.update(model, gradients)
    return model.layers[1]["weight"].item(), model.layers[0]["bias"].item()


def test_adamw_corrects_its_bias_and_decays_weights_but_not_biases() -> None:
    # the first corrected step is the learning rate times the gradient's sign
    weight, bias = _update(0.25, learning_rate=0.1, weight_decay=0.5)
    assert weight == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-6)
    assert bias == pytest.approx(1 - 0.1, abs=1e-6)


def test_sgd_looks_ahead_by_nesterov() -> None:
    weight, bias = _update(0.25, name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    assert bias == pytest.approx(1 - 0.1 * (0.25 + 0.9 * 0.25), abs=1e-6)
    assert weight == pytest.approx(1 - 0.1 * 1.9 * (0.25 + 0.5), abs=1e-6)


def test_sgd_without_momentum_is_allowed() -> None:
    assert _update(0.25, name="sgd", learning_rate=0.1, momentum=0, weight_decay=0)[0] == pytest.approx(0.975)


def test_norm_is_global_and_clipping_keeps_directions() -> None:
    gradients = {"a": mx.array([3.0, 0.0]), "b": [mx.array([4.0])]}
    norm = global_norm(gradients)
    assert norm.item() == 5
    clipped = clip_by_norm(gradients, norm, 1.0)
    assert clipped["a"].tolist() == pytest.approx([0.6, 0], abs=1e-6)
    assert clipped["b"][0].item() == pytest.approx(0.8, abs=1e-6)
    assert clip_by_norm(gradients, norm, 6.0)["a"].tolist() == [3, 0]
    assert math.isnan(global_norm({"a": mx.array([math.nan])}).item())
