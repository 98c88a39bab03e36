from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

from engine.evaluation.temperature import (
    HIGHEST,
    LOWEST,
    choose_temperature,
    cross_fit,
    fit_temperature,
    is_at_bound,
    scale,
)
from engine.evaluation.temperature import store_temperature as store
from engine.runs.run_folder import RunFolder

STEP = {"step": 7, "weights": "ema"}


def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits (count, 3) and labels that their softmax predicts truly."""
    logits = rng.normal(0, 2, (count, 3))
    labels = (rng.uniform(size=(count, 1)) > softmax(logits, axis=1).cumsum(axis=1)[:, :2]).sum(axis=1)
    return logits, labels


def test_scaling_divides_the_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 3)).astype(np.float32)
    p = softmax(logits, axis=-1)
    scaled = scale(p, 2.5)
    np.testing.assert_allclose(scaled, softmax(logits / 2.5, axis=-1), rtol=1e-4)
    assert scaled.dtype == np.float32
    assert scale(p, 1.0) is p
    np.testing.assert_array_equal(scale(p, 0.4).argmax(-1), p.argmax(-1))
    np.testing.assert_allclose(scale(expit(logits), 2.0, multi_label=True), expit(logits / 2), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_fit_recovers_how_logits_were_scaled(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = draw(20000, rng)
    p = softmax(logits * temperature, axis=1)
    assert fit_temperature([(p, labels)]) == pytest.approx(temperature, rel=0.03)
    truth = (rng.uniform(size=logits.shape) < expit(logits)).astype(int)
    assert fit_temperature([(expit(logits * temperature), truth)]) == pytest.approx(temperature, rel=0.03)


def test_cases_weigh_alike_and_what_is_always_right_ends_at_the_bound() -> None:
    """A case of 10 and one of 1000 decisions, each with a temperature of its own: between them, not at the larger's."""
    p = np.full((10, 2), (0.9, 0.1))
    sure, unsure = np.zeros(10, int), np.array([0, 1] * 5)
    fitted = fit_temperature([(np.tile(p, (100, 1)), np.tile(sure, 100)), (p, unsure)])
    assert fitted == pytest.approx(fit_temperature([(p, sure), (p, unsure)]), rel=1e-3)
    p = np.full((5, 2), (0.9, 0.1))
    assert fit_temperature([(p, np.zeros(5, int))]) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature([(p, np.ones(5, int))]) == pytest.approx(HIGHEST, rel=0.01)
    assert is_at_bound(fit_temperature([(p, np.zeros(5, int))]))
    assert is_at_bound(fit_temperature([(p, np.ones(5, int))]))
    assert not is_at_bound(fit_temperature([(p, np.array([0, 0, 0, 0, 1]))]))


def test_each_half_is_scaled_by_the_others_temperature() -> None:
    rng = np.random.default_rng(0)
    cases, groups = [], []
    for number in range(6):
        logits, labels = draw(500, rng)
        cases.append((softmax(logits * 2, axis=1), labels))
        groups.append(f"g{number // 2}")  # pairs stay on one side
    fit = cross_fit(cases, groups, seed=3)
    assert fit.halves == pytest.approx((2, 2), rel=0.2)
    used = []
    for (p, labels), (scaled, same) in zip(cases, fit.scaled, strict=True):
        assert same is labels
        (which,) = (h for h in (0, 1) if np.allclose(scaled, scale(p, fit.halves[h])))
        used.append(which)
    assert used[::2] == used[1::2]
    assert set(used) == {0, 1}
    own = [cases[i] for i in range(6) if used[i] == 1]  # scaled by the second, so the first was fitted on them
    assert fit_temperature(own) == pytest.approx(fit.halves[0])
    assert cross_fit(cases, groups, seed=3).halves == fit.halves  # type: ignore[union-attr]
    assert cross_fit(cases[:2], groups[:2]) is None  # one group


def test_temperatures_are_stored_and_chosen(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    store(run, "mc_dropout", 1.5, STEP)
    with pytest.raises(ValueError, match=r"holds none for this kind of prediction \(plain\); run evaluate.py on the"):
        choose_temperature(run, "stored", "plain", STEP)
    store(run, "plain", 1.25, STEP)
    assert choose_temperature(run, "stored", "plain", STEP) == 1.25
    assert choose_temperature(run, "stored", "mc_dropout", STEP) == 1.5
    assert run.read_json("temperature")["fitted_on"] == STEP
    assert choose_temperature(run, "none", "ensemble", STEP) == 1
    assert choose_temperature(run, 3.0, "ensemble", STEP) == 3
    with pytest.raises(ValueError, match=r"fitted at step 7 .ema weights., this checkpoint is of step 7 .raw."):
        choose_temperature(run, "stored", "plain", {"step": 7, "weights": "raw"})
    with pytest.raises(ValueError, match="is of one run; give the number"):
        choose_temperature(run, "stored", "ensemble", STEP)
