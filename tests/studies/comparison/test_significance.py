import numpy as np
import pytest
from scipy import stats

from benchmarks.inference import draw_scores, error_rate, measure_cases, noises, paired_holm, power, shipped
from studies.comparison.significance import (
    Comparisons,
    compare_with_baseline,
    crossed_intervals,
    dunnett_critical,
    dunnett_p,
    estimate_noise,
    find_unstable,
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
    assert found.degrees.tolist() == [2]
    assert found.p == pytest.approx([expected.pvalue], abs=1e-6)
    assert found.p_paired == pytest.approx([expected.pvalue])


def test_noise_is_pooled_over_cells() -> None:
    """By hand: residuals of additive cells and seeds are ±1, ∓1 and 0; 2 others × 2 seeds leave 1 degree of freedom."""
    scores = np.array([[5.0, 7.0], [7.0, 7.0], [5.0, 9.0]])  # seeds are 2 apart; the last two cells ∓1 beside that
    noise = estimate_noise(scores[None])
    # Others: residuals ∓1, ±1: 4 / 1 = 4. Baseline less their mean: -1, -1, hence less than pooled, 4 of it.
    # Own differences: (2, 0) and (0, 2), of variance 2.
    assert noise.variances.tolist() == [[8.0, 8.0]]
    assert noise.degrees.tolist() == [[2.0, 2.0]]


def test_noise_of_a_baseline_or_a_cell_is_its_own() -> None:
    scores = np.array([[-3.0, 3.0, 0.0], [0.1, -0.1, 0.0], [-0.1, 0.1, 0.0]])
    noise = estimate_noise(scores[None])
    # Others: residuals ±0.1, sum of squares 0.04 on 2 degrees: 0.02. Baseline: 9 less 0.02 / 2.
    assert noise.variances[0] == pytest.approx([(9.61), (9.01)])
    total, pooled = 9.01, 0.02
    assert noise.degrees[0, 0] == pytest.approx(total**2 / ((total - pooled) ** 2 / 2 + pooled**2 / 2))
    random = np.random.default_rng(0)
    scores = random.standard_normal((8, 5))
    scores[3] += [-20, 20, 0, 10, -10]
    variances = estimate_noise(scores[None]).variances
    own = (scores[3] - scores[0]).var(ddof=1)
    assert variances[0, 2] == pytest.approx(own)
    assert variances[0, 0] < own / 2


def test_an_unstable_cell_leaves_the_pool() -> None:
    """The others are tested as without it, except for the number of comparisons; it has its own paired t test."""
    scores = np.random.default_rng(1).standard_normal((8, 3))
    scores[4] += [-300, 20, 10]
    found, without = compare_with_baseline(scores), compare_with_baseline(np.delete(scores, 4, axis=0))
    assert found.is_unstable.tolist() == [False, False, False, True, False, False, False]
    assert not found.is_baseline_unstable
    others = ~found.is_unstable
    assert found.standard_errors[others] == pytest.approx(without.standard_errors)
    assert found.degrees[others] == pytest.approx(without.degrees)
    assert found.standard_errors[3] == pytest.approx(stats.sem(scores[4] - scores[0]))
    assert found.degrees[3] == 2
    t = found.differences[3] / found.standard_errors[3]
    assert found.p[3] == pytest.approx(dunnett_p(float(t), 7, 2))
    assert found.detectable < 2 * without.detectable


def test_instability_is_an_f_test_about_the_other_cells() -> None:
    scores = np.random.default_rng(4).standard_normal((6, 3))
    seeds = np.array([7.0, -3.0, 1.0])  # what all cells of a seed share is no instability
    for factor in np.arange(1, 30, 1.0):
        scaled = scores * np.array([factor, 1, 1, 1, 1, 1])[:, None]
        rest = scaled[1:] - scaled[1:].mean(axis=0)
        pooled = ((rest - rest.mean(axis=1, keepdims=True)) ** 2).sum() / 8
        ratio = (scaled[0] - scaled[1:].mean(axis=0)).var(ddof=1) / (1 + 1 / 5) / pooled
        expected = stats.f.sf(ratio, 2, 8) < 0.003 / 6 and ratio > 16
        assert find_unstable((scaled + seeds)[None])[0].tolist() == [expected] + [False] * 5
    assert expected


def test_two_unstable_cells_do_not_hide_each_other_and_equal_ones_are_rarely_unstable() -> None:
    scores = np.random.default_rng(5).standard_normal((1, 8, 3))
    scores[0, [0, 6]] += [[90, -50, 0], [0, -70, 80]]
    assert np.flatnonzero(find_unstable(scores)[0]).tolist() == [0, 6]
    assert compare_with_baseline(scores[0]).is_baseline_unstable
    random = np.random.default_rng(6)
    assert find_unstable(draw_scores(random, 4000, np.ones(8), 3)).any(axis=1).mean() < 0.008
    assert find_unstable(draw_scores(random, 4000, noises(8)["one cell × 30"], 3))[:, -1].mean() > 0.95
    assert not find_unstable(np.array([[[0.0, 0.0], [0, 0], [0, 0], [0, 1]]])).any()  # nothing to judge by
    assert not find_unstable(np.array([[[0.0, 0.1], [0, 0.1], [0, 90]]])).any()


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_one_unstable_cell_hides_no_difference_among_the_others(num_seeds: int) -> None:
    random = np.random.default_rng(num_seeds)
    without = power(shipped, draw_scores(random, 4000, np.ones(8), num_seeds))
    found = power(shipped, draw_scores(random, 4000, noises(8)["one cell × 30"], num_seeds))
    assert found > without - 0.06


def test_any_row_may_be_the_baseline_and_seeds_that_agree_leave_nothing_to_test() -> None:
    scores = np.random.default_rng(0).standard_normal((4, 3))
    first = compare_with_baseline(scores[[2, 0, 1, 3]])
    other = compare_with_baseline(scores, baseline=2)
    assert other.differences == pytest.approx(first.differences)
    assert other.p == pytest.approx(first.p)
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
@pytest.mark.parametrize("num_cells", [4, 8])
@pytest.mark.parametrize("noise", list(noises(8)))
def test_unequal_noise_rarely_shows_a_difference(num_seeds: int, num_cells: int, noise: str) -> None:
    scores = draw_scores(np.random.default_rng(num_seeds), 4000, noises(num_cells)[noise], num_seeds)
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
    degrees = np.array([8.0, 8.0, 2.0])
    return Comparisons(differences, errors, degrees, np.full(3, 0.5), np.full(3, 0.5), 0.0, degrees < 8)


def test_intervals_without_noise_of_cases_or_of_seeds() -> None:
    comparisons = make_comparisons(0.01)
    intervals = crossed_intervals(comparisons, np.tile(comparisons.differences, (100, 1)))
    assert intervals.mean(axis=1) == pytest.approx(comparisons.differences)
    critical = [dunnett_critical(3, degrees) for degrees in (8, 8, 2)]
    assert np.diff(intervals)[:, 0] / 2 == pytest.approx(0.01 * np.array(critical))
    comparisons = make_comparisons(1e-9)
    resampled = comparisons.differences + 0.05 * np.random.default_rng(0).standard_normal((4000, 3))
    half = np.diff(crossed_intervals(comparisons, resampled))[:, 0] / 2
    assert half == pytest.approx(np.full(3, 0.05 * 2.39), rel=0.04)  # the largest of three normal |z|, in 95 %
    resampled[::2] = np.nan
    half = np.diff(crossed_intervals(comparisons, resampled))[:, 0] / 2
    assert half == pytest.approx(np.full(3, 0.05 * 2.39), rel=0.06)
    assert np.isnan(crossed_intervals(comparisons, np.full((10, 3), np.nan))).all()


@pytest.mark.parametrize("num_cases", [6, 40])
def test_intervals_of_few_cases_have_the_tails_of_t(num_cases: int) -> None:
    """One comparison without seed noise has Student's interval, though resampling has the variance of n."""
    one = np.array([1e-9])
    comparisons = Comparisons(np.array([0.1]), one, np.array([8.0]), one, one, 0.0, one > 1)
    sd_of_bootstrap = 0.05 * np.sqrt(1 - 1 / num_cases)
    resampled = 0.1 + sd_of_bootstrap * np.random.default_rng(0).standard_normal((20_000, 1))
    half = np.diff(crossed_intervals(comparisons, resampled, num_cases - 1, 40_000))[:, 0] / 2
    assert half == pytest.approx(0.05 * stats.t.isf(0.025, num_cases - 1), rel=0.04)


@pytest.mark.slow
def test_p_speaks_for_these_cases_and_intervals_for_others() -> None:
    """100 studies of 8 cells without a difference, whose effects on cases differ; 10 patients with 4 scans each."""
    found = measure_cases(np.random.default_rng(0), 100, 8, 3, case_effect=3.0, num_groups=10)
    assert found["some p < 0.05"] > 0.14
    assert found["all intervals"] > 0.92
    assert found["groups ignored"] < found["all intervals"]


def test_wilcoxon_is_scipys_and_needs_five_cases() -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 20))
    assert wilcoxon_over_cases(first, second) == stats.wilcoxon(first, second).pvalue
    assert wilcoxon_over_cases(np.append(first, np.nan), np.append(second, 1)) == stats.wilcoxon(first, second).pvalue
    assert np.isnan(wilcoxon_over_cases(first[:4], second[:4]))
