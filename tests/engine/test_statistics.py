import numpy as np
import pytest
from scipy.stats import bootstrap

from engine.statistics import bootstrap_intervals, summarise


def test_describes_each_class_and_their_mean() -> None:
    values = np.array([[0.5, 0.9], [0.7, np.nan], [0.9, 0.7]])
    summary = summarise(values, ["a", "b"], num_samples=200)
    assert summary["a"]["mean"] == pytest.approx(0.7)
    assert summary["a"]["sd"] == pytest.approx(0.2)
    assert summary["a"]["median"] == pytest.approx(0.7)
    assert summary["b"]["mean"] == pytest.approx(0.8)
    assert summary["b"]["num_cases"] == 2
    assert summary["mean"]["mean"] == pytest.approx(0.75)  # of the classes, each worth the same
    assert summary["mean"]["median"] == pytest.approx(0.7)  # of 0.7, 0.7, 0.8


def test_infinities_are_left_out() -> None:
    summary = summarise(np.array([[2.0], [np.inf], [4.0]]), ["a"], num_samples=100)
    assert summary["a"]["mean"] == 3
    assert summary["a"]["num_cases"] == 2


def test_a_class_in_no_case_has_no_numbers() -> None:
    summary = summarise(np.array([[0.5, np.nan], [0.6, np.nan]]), ["a", "b"], num_samples=100)
    assert np.isnan([summary["b"]["mean"], summary["b"]["sd"], *summary["b"]["interval_95"]]).all()
    assert summary["mean"]["mean"] == pytest.approx(0.55)


def test_one_case_has_no_interval() -> None:
    summary = summarise(np.array([[0.5]]), ["a"], num_samples=100)
    assert summary["a"]["mean"] == 0.5
    assert np.isnan(summary["a"]["interval_95"]).all()


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).beta(8, 2, size=(40, 1))
    per_class, overall = bootstrap_intervals(values, num_samples=20000)
    expected = bootstrap((values[:, 0],), np.mean, n_resamples=20000, method="percentile", rng=0).confidence_interval
    np.testing.assert_allclose(per_class[0], expected, atol=2e-3)
    np.testing.assert_allclose(overall, per_class[0])


def test_interval_of_the_mean_keeps_the_cases_together() -> None:
    column = np.random.default_rng(0).normal(size=50)
    same, _ = bootstrap_intervals(column[:, None], 2000)
    _, opposite = bootstrap_intervals(np.stack([column, -column], axis=1), 2000)
    assert np.ptp(same) > 0.3
    np.testing.assert_allclose(opposite, 0, atol=1e-12)  # independent draws would leave a width


def test_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=(12, 2))
    np.testing.assert_array_equal(bootstrap_intervals(values, 500, seed=1)[0], bootstrap_intervals(values, 500, 1)[0])
    assert (bootstrap_intervals(values, 500, seed=1)[0] != bootstrap_intervals(values, 500, seed=2)[0]).any()
