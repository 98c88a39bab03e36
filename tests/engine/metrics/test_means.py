import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.intervals import NAMES, coverage
from engine.metrics.means import bootstrap_intervals, summarise


def test_describes_each_class_and_their_mean() -> None:
    values = np.array([[0.5, 0.9], [0.7, np.nan], [0.9, 0.7]])
    summary = summarise(values, ["a", "b"], "xyz", num_samples=200)
    assert summary["a"]["mean"] == pytest.approx(0.7)
    assert summary["a"]["sd"] == pytest.approx(0.2)
    assert summary["a"]["median"] == pytest.approx(0.7)
    assert summary["b"]["mean"] == pytest.approx(0.8)
    assert summary["b"]["num_cases"] == 2
    assert summary["mean"]["mean"] == pytest.approx(0.75)  # of the classes, each worth the same
    assert summary["mean"]["median"] == pytest.approx(0.7)  # of 0.7, 0.7, 0.8
    summary = summarise(np.array([[2.0], [np.inf], [4.0]]), ["a"], "xyz", num_samples=100)
    assert summary["a"]["mean"] == 3
    assert (summary["a"]["num_cases"], summary["a"]["num_infinite"]) == (2, 1)
    values = np.stack([np.linspace(0.5, 0.6, 12), np.full(12, np.nan)], axis=1)
    summary = summarise(values, ["a", "b"], range(12), num_samples=100)
    assert np.isnan([summary["b"]["mean"], summary["b"]["sd"], *summary["b"]["interval_95"]]).all()
    assert summary["mean"]["mean"] == pytest.approx(0.55)
    assert summary["mean"]["interval_95"] == pytest.approx(summary["a"]["interval_95"])


@pytest.mark.parametrize("num_units", [0, 1, 9])
def test_few_units_have_no_interval(num_units: int) -> None:
    values = np.random.default_rng(0).random((3 * num_units, 1))
    summary = summarise(values, ["a"], np.arange(3 * num_units) // 3, num_samples=100)
    assert np.isnan([*summary["a"]["interval_95"], *summary["mean"]["interval_95"]]).all()


def test_a_rare_class_leaves_the_mean_without_interval() -> None:
    values = np.random.default_rng(0).random((30, 2))
    values[9:, 1] = np.nan
    per_class, overall = bootstrap_intervals(values, range(30), 200)
    assert np.isfinite(per_class[0]).all()
    assert np.isnan([*per_class[1], *overall]).all()


def test_interval_is_studentised() -> None:
    """Of independent cases the error is the standard error of the mean, and SciPy gives the t of each sample."""
    values = np.random.default_rng(0).beta(8, 2, size=40)

    def t(sample: np.ndarray, axis: int) -> np.ndarray:
        errors = sample.std(axis=axis, ddof=0) / np.sqrt(40 - 1)
        return (sample.mean(axis=axis) - values.mean()) / errors

    samples = bootstrap((values,), t, n_resamples=20000, method="percentile", rng=0).bootstrap_distribution
    low, high = np.percentile(samples, [2.5, 97.5])
    error = values.std(ddof=1) / np.sqrt(40)
    per_class, overall = bootstrap_intervals(values[:, None], range(40), num_samples=20000)
    expected = values.mean() - high * error, values.mean() - low * error
    np.testing.assert_allclose(per_class[0], expected, atol=2e-3)
    np.testing.assert_allclose(overall, per_class[0])


def test_whole_groups_are_drawn_and_cases_kept_together() -> None:
    """Copies of a case say no more than one; groups of unequal size weigh by their cases."""
    values = np.random.default_rng(0).normal(size=(15, 2))
    alone = bootstrap_intervals(values, range(15), 500)
    copies = bootstrap_intervals(np.repeat(values, 5, axis=0), np.repeat(np.arange(15), 5), 500)
    np.testing.assert_allclose(copies[0], alone[0])
    np.testing.assert_allclose(copies[1], alone[1])
    apart = bootstrap_intervals(np.repeat(values, 5, axis=0), range(75), 500)
    assert np.ptp(copies[1]) > 1.8 * np.ptp(apart[1])
    column = np.random.default_rng(0).normal(size=50)
    same, _ = bootstrap_intervals(column[:, None], range(50), 2000)
    _, opposite = bootstrap_intervals(np.stack([column, -column], axis=1), range(50), 2000)
    assert np.ptp(same) > 0.3
    np.testing.assert_allclose(opposite, 0, atol=1e-12)  # independent draws would leave a width


def test_intervals_stay_within_bounds_and_depend_on_the_seed_alone() -> None:
    """One case tells all of the spread: the samples without it leave the interval open."""
    values = np.append(np.full(11, 0.99), 0.5)[:, None]
    free, bound = (summarise(values, ["a"], range(12), 2000, b)["a"]["interval_95"] for b in ((-9, 9), (0, 1)))
    assert free[0] == -9
    assert bound[0] == 0
    assert bound[1] == min(free[1], 1) > 0.97
    per_class, _ = bootstrap_intervals(np.full((20, 1), 0.5), range(20), 100)
    assert per_class.tolist() == [[0.5, 0.5]]
    values, cases = np.random.default_rng(0).normal(size=(12, 2)), range(12)
    first, again, other = (bootstrap_intervals(values, cases, 500, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.slow
def test_intervals_hold_what_percentiles_of_scans_do_not() -> None:
    """Skewed Dice of 20 patients with five scans each, 300 studies: see docs/uncertainty.md for more."""
    found = dict(zip(NAMES, coverage("skewed", 20, 5, num_studies=300, num_samples=300), strict=True))
    assert found["percentile, cases"] < 0.75
    assert found["studentised, groups"] > 0.91
    assert found["studentised, groups"] > found["percentile, groups"]
