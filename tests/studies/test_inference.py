import numpy as np
import pytest
from scipy import stats

from benchmarks.inference import draw_scores, error_rate, noises, paired_holm, power, shipped
from studies.inference import (
    Comparisons,
    compare_with_baseline,
    crossed_intervals,
    dunnett_critical,
    dunnett_p,
    estimate_variances,
    wilcoxon_over_cases,
)


@pytest.mark.parametrize(("num_comparisons", "expected"), [(1, 2.09), (2, 2.38), (3, 2.54), (4, 2.65), (9, 2.95)])
def test_critical_values_are_dunnetts(num_comparisons: int, expected: float) -> None:
    """Dunnett 1964, Biometrics 20:482, table of two-sided 5 % values at 20 degrees of freedom."""
    assert dunnett_critical(num_comparisons, 20) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("t", "degrees"), [(0.0, 4), (2.776, 4), (-6.0, 4), (3.0, 2.5), (40.0, 28)])
def test_one_comparison_is_a_t_test(t: float, degrees: float) -> None:
    assert dunnett_p(t, 1, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-6)


@pytest.mark.parametrize(("k", "degrees"), [(7, 14), (7, 2), (3, 60)])
def test_p_is_that_of_the_multivariate_t(k: int, degrees: int) -> None:
    joint = stats.multivariate_t(shape=0.5 * np.eye(k) + 0.5, df=degrees)
    for t in (1.0, 2.5, 4.0):
        within = joint.cdf([t] * k, lower_limit=[-t] * k, random_state=0, maxpts=20_000)
        assert dunnett_p(t, k, degrees) == pytest.approx(1 - within, abs=2e-3)


def test_two_cells_are_compared_by_the_paired_t_test() -> None:
    scores = np.array([[0.80, 0.82, 0.85], [0.83, 0.84, 0.89]])
    found = compare_with_baseline(scores)
    expected = stats.ttest_rel(scores[1], scores[0])
    assert found.differences == pytest.approx([0.03])
    assert found.degrees == 2
    assert found.p == pytest.approx([expected.pvalue], abs=1e-6)
    assert found.p_paired == pytest.approx([expected.pvalue])


def test_noise_is_pooled_over_cells() -> None:
    """By hand: residuals of additive cells and seeds are ±1, ∓1 and 0; 2 others × 2 seeds leave 1 degree of freedom."""
    scores = np.array([[5.0, 7.0], [7.0, 7.0], [5.0, 9.0]])  # seeds are 2 apart; the last two cells ∓1 beside that
    variances, degrees = estimate_variances(scores[None])
    # Others: residuals ∓1, ±1: 4 / 1 = 4. Baseline less their mean: -1, -1, hence less than pooled, 4 of it.
    # Own differences: (2, 0) and (0, 2), of variance 2.
    assert variances.tolist() == [[8.0, 8.0]]
    assert degrees.tolist() == [2.0]


def test_a_noisy_baseline_costs_degrees_of_freedom() -> None:
    scores = np.array([[-3.0, 3.0, 0.0], [0.1, -0.1, 0.0], [-0.1, 0.1, 0.0]])
    variances, degrees = estimate_variances(scores[None])
    # Others: residuals ±0.1, sum of squares 0.04 on 2 degrees: 0.02. Baseline: 9 less 0.02 / 2.
    assert variances[0] == pytest.approx([(9.61), (9.01)])
    total, pooled = 9.01, 0.02
    assert degrees[0] == pytest.approx(total**2 / ((total - pooled) ** 2 / 2 + pooled**2 / 2))


def test_a_noisy_cell_has_its_own_variance() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal((8, 5))
    scores[3] += [-20, 20, 0, 10, -10]
    variances, _ = estimate_variances(scores[None])
    own = (scores[3] - scores[0]).var(ddof=1)
    assert variances[0, 2] == pytest.approx(own)
    assert variances[0, 0] < own / 2


def test_any_row_may_be_the_baseline() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 3))
    first = compare_with_baseline(scores[[2, 0, 1, 3]])
    other = compare_with_baseline(scores, baseline=2)
    assert other.differences == pytest.approx(first.differences)
    assert other.p == pytest.approx(first.p)


def test_seeds_that_agree_leave_nothing_to_test() -> None:
    found = compare_with_baseline(np.array([[0.5, 0.6], [0.6, 0.7]]).round(1) // 0.1)
    assert np.isnan(found.p).all()
    intervals = crossed_intervals(found, np.zeros((10, 1)))
    assert np.isnan(intervals).all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((1, 3)), r"at least 2 cells × 2 seeds; got shape \(1, 3\)"),
        (np.zeros((3, 1)), r"at least 2 cells × 2 seeds; got shape \(3, 1\)"),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), "a score is not finite: leave its cell out"),
    ],
)
def test_refuses_what_holds_no_inference(scores: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_with_baseline(scores)


def test_many_studies_at_once_are_tested_like_one() -> None:
    scores = draw_scores(np.random.default_rng(3), 30, np.linspace(2, 0.5, 8), 3)
    scores[:, 1] += 4
    one_by_one = np.array([compare_with_baseline(study).p < 0.05 for study in scores])
    assert np.array_equal(shipped(scores), one_by_one)
    assert 3 < one_by_one.sum() < 60


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_null_ablations_rarely_show_a_difference(num_seeds: int) -> None:
    """500 studies of 8 like cells: scores are means over cases whose errors all cells share."""
    random = np.random.default_rng(num_seeds)
    scores = draw_scores(random, 500, np.ones(8), num_seeds, shared=0.2)
    of_cases = 10 * random.standard_normal((500, 1, 1, 40))
    of_runs = 3 * random.standard_normal((500, 8, num_seeds, 40))
    assert error_rate(shipped, scores + (of_cases + of_runs).mean(axis=3)) <= 0.07


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("noise", list(noises(8)))
def test_unequal_noise_rarely_shows_a_difference(num_seeds: int, noise: str) -> None:
    scores = draw_scores(np.random.default_rng(num_seeds), 4000, noises(8)[noise], num_seeds)
    assert error_rate(shipped, scores) <= 0.07


@pytest.mark.parametrize(("num_cells", "least"), [(4, 0.85), (8, 0.8), (31, 0.6)])
def test_a_difference_of_three_seed_sd_is_found_at_five_seeds(num_cells: int, least: float) -> None:
    scores = draw_scores(np.random.default_rng(1), 2000, np.ones(num_cells), 5)
    found = power(shipped, scores)
    assert found >= least
    assert found > power(paired_holm, scores) + 0.1


def test_the_detectable_difference_is_found_in_two_of_three_studies() -> None:
    random = np.random.default_rng(2)
    scores = draw_scores(random, 2000, np.ones(8), 5)
    typical = np.median([compare_with_baseline(study).detectable for study in scores[:40]])
    assert power(shipped, scores, float(typical)) == pytest.approx(0.67, abs=0.08)


def make_comparisons(error: float) -> Comparisons:
    differences, errors = np.array([0.1, -0.2, 0.0]), np.full(3, error)
    return Comparisons(differences, errors, 8.0, np.full(3, 0.5), np.full(3, 0.5), 0.0)


def test_intervals_without_case_noise_are_dunnetts() -> None:
    comparisons = make_comparisons(0.01)
    intervals = crossed_intervals(comparisons, np.tile(comparisons.differences, (100, 1)))
    assert intervals.mean(axis=1) == pytest.approx(comparisons.differences)
    assert np.diff(intervals)[:, 0] / 2 == pytest.approx(np.full(3, 0.01 * dunnett_critical(3, 8)), rel=0.03)


def test_intervals_without_seed_noise_are_those_of_the_cases() -> None:
    comparisons = make_comparisons(1e-9)
    resampled = comparisons.differences + 0.05 * np.random.default_rng(0).standard_normal((4000, 3))
    half = np.diff(crossed_intervals(comparisons, resampled))[:, 0] / 2
    assert half == pytest.approx(np.full(3, 0.05 * 2.39), rel=0.04)  # the largest of three normal |z|, in 95 %


def test_samples_of_the_cases_without_a_score_do_not_narrow_the_intervals() -> None:
    comparisons = make_comparisons(1e-9)
    resampled = comparisons.differences + 0.05 * np.random.default_rng(0).standard_normal((4000, 3))
    resampled[::2] = np.nan
    half = np.diff(crossed_intervals(comparisons, resampled))[:, 0] / 2
    assert half == pytest.approx(np.full(3, 0.05 * 2.39), rel=0.06)
    assert np.isnan(crossed_intervals(comparisons, np.full((10, 3), np.nan))).all()


def test_wilcoxon_is_scipys_and_needs_five_cases() -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 20))
    assert wilcoxon_over_cases(first, second) == stats.wilcoxon(first, second).pvalue
    assert wilcoxon_over_cases(np.append(first, np.nan), np.append(second, 1)) == stats.wilcoxon(first, second).pvalue
    assert np.isnan(wilcoxon_over_cases(first[:4], second[:4]))
