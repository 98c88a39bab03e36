"""Tests whether cells of a sweep differ from its baseline by more than their seeds do; takes and returns arrays.

The unit is a seed: a score (cells, seeds) is that of one trained network, or the mean over the folds of that seed.
With one seed all cells have the same first weights and the same batches, so differences are taken within seeds.

Three or five seeds give a cell's own spread 2 or 4 degrees of freedom: a paired t test of its own, corrected for
seven comparisons, finds a difference of three standard deviations in 10 % and 50 % of studies. The spread is
therefore pooled over the cells, as in an analysis of randomised blocks, and all cells are compared with the baseline
by Dunnett's many-to-one test (Dunnett 1955, J. Am. Stat. Assoc. 50:1096). Pooling alone is wrong where cells are
unequally noisy, most of all the baseline, whose noise is in every comparison. Two rules, which only make a test
stricter, correct for that:

- the baseline's variance is its own where that is larger than the others' pooled one, and the degrees of freedom
  are then Satterthwaite's (1946, Biometrics Bulletin 2:110);
- a difference's variance is its own, over seeds, where that is larger still.

A training that collapses under some seeds varies tens of times as much as the others; in the pool it would hide all
differences. Such cells are found first (`find_unstable`) and left out of the pool. They are tested by the variance of
their own differences, with its own degrees of freedom, still corrected for all comparisons.

`python -m benchmarks.inference` prints the error rates of this test and of others.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr

CONFIDENCE = 0.95
UNSTABLE_LEVEL = 0.003  # of each test for one, corrected for the number of cells
UNSTABLE_FACTOR = 4.0  # and how many times the others' standard deviation its own must be
_NODES = 64  # of each quadrature


@dataclass(frozen=True)
class Comparisons:
    """Each of k cells against the baseline. Arrays are (k,)."""

    differences: np.ndarray  # mean over seeds of cell less baseline
    standard_errors: np.ndarray  # of the training noise alone
    degrees: np.ndarray  # of freedom: of the pool, or of an unstable cell's own variance
    p: np.ndarray  # corrected for k comparisons; NaN where the seeds do not vary at all
    p_paired: np.ndarray  # of the cell's own differences alone, uncorrected: the paired t test
    detectable: float  # the true difference that about two of three studies of this size would find in a stable cell
    is_unstable: np.ndarray  # cells whose noise is not pooled, being far more than the others'
    is_baseline_unstable: bool = False


@dataclass(frozen=True)
class Noise:
    """The noise of many studies, of k comparisons each."""

    variances: np.ndarray  # (studies, k), of one seed's differences from the baseline
    degrees: np.ndarray  # (studies, k), of freedom
    is_unstable: np.ndarray  # (studies, cells), the baseline among them


def compare_with_baseline(scores: np.ndarray, baseline: int = 0) -> Comparisons:
    """Test every other cell of `scores` (cells, seeds) against the baseline's row.

    Raises ValueError with fewer than two cells or two seeds, or a score that is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(f"expected scores of at least 2 cells × 2 seeds; got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite: leave its cell out")
    num_comparisons, num_seeds = len(scores) - 1, scores.shape[1]
    differences = np.delete(scores, baseline, axis=0) - scores[baseline]  # (k, seeds)
    noise = estimate_noise(scores[None], baseline)
    means, variances, degrees = differences.mean(axis=1), noise.variances[0], noise.degrees[0]
    is_unstable = np.delete(noise.is_unstable[0], baseline)
    own = differences.var(axis=1, ddof=1)
    errors = np.sqrt(variances / num_seeds)
    pool = float(degrees[~is_unstable][0])
    critical = dunnett_critical(num_comparisons, pool)
    typical = np.sqrt(np.median(variances[~is_unstable]) / num_seeds)
    t = _ratio(means, errors)
    return Comparisons(
        means,
        errors,
        degrees,
        np.array([dunnett_p(t[i], num_comparisons, float(degrees[i])) for i in range(num_comparisons)]),
        2 * stats.t.sf(abs(_ratio(means, np.sqrt(own / num_seeds))), num_seeds - 1),
        float((critical + stats.t.ppf(0.8, pool)) * typical),  # the cautions take part of these 80 %
        is_unstable,
        bool(noise.is_unstable[0, baseline]),
    )


def find_unstable(scores: np.ndarray) -> np.ndarray:
    """Return which cells of `scores` (studies, cells, seeds) are far noisier than the others: (studies, cells) bool.

    Cochran's test for an outlying variance (1941, Annals of Eugenics 11:47), of residuals from an additive model of
    cells and seeds: a cell's variance about the mean of the other cells, over these cells' pooled one, has an F
    distribution where all are equally noisy, here corrected for the number of cells. Two unstable cells would hide each
    other from a test that stops at the first cell it does not find; so the test always continues without the noisiest
    cell, and all cells up to the last one found are unstable (Rosner 1983, Technometrics 25:165). With many cells the
    test finds harmless ones, so a cell's standard deviation must also be UNSTABLE_FACTOR times the others'. Fewer than
    half of the cells can be unstable, and none of fewer than four: too few would be left to judge by.
    """
    num_studies, num_cells, num_seeds = scores.shape
    is_left = np.ones((num_studies, num_cells), bool)
    is_unstable = np.zeros((num_studies, num_cells), bool)
    study = np.arange(num_studies)
    for m in range(num_cells, num_cells // 2 + 1, -1) if num_cells > 3 else ():
        shared = np.where(is_left[..., None], scores, 0).sum(axis=1, keepdims=True) / m
        residuals = scores - shared
        squares = ((residuals - residuals.mean(axis=2, keepdims=True)) ** 2).sum(axis=2) * is_left
        noisiest = squares.argmax(axis=1)
        of_cell = squares[study, noisiest] * m / (m - 1)
        of_others = squares.sum(axis=1) - of_cell
        has_noise = of_others > 1e-12 * of_cell  # others that agree to the last digit give no scale
        ratio = np.divide(of_cell * (m - 2), of_others, out=np.zeros(num_studies), where=has_noise)
        is_left[study, noisiest] = False
        critical = stats.f.isf(UNSTABLE_LEVEL / m, num_seeds - 1, (m - 2) * (num_seeds - 1))
        is_unstable = np.where((ratio > max(critical, UNSTABLE_FACTOR**2))[:, None], ~is_left, is_unstable)
    return is_unstable


def estimate_noise(scores: np.ndarray, baseline: int = 0) -> Noise:
    """Return the noise of one seed's differences from the baseline; scores: (studies, cells, seeds)."""
    num_seeds = scores.shape[2]
    others, reference = np.delete(scores, baseline, axis=1), scores[:, baseline]
    own = (others - reference[:, None]).var(axis=2, ddof=1)
    is_unstable = find_unstable(scores)
    if others.shape[1] == 1:  # nothing to pool
        return Noise(own, np.full(own.shape, num_seeds - 1.0), is_unstable)
    is_out = np.delete(is_unstable, baseline, axis=1)
    k = (~is_out).sum(axis=1)  # in the pool, 2 or more
    mean = np.where(is_out[..., None], 0, others).sum(axis=1) / k[:, None]  # (studies, seeds)
    residuals = others - mean[:, None]
    residuals -= residuals.mean(axis=2, keepdims=True)
    degrees_others = (k - 1) * (num_seeds - 1)
    pooled = (residuals**2).sum(axis=(1, 2), where=~is_out[..., None]) / degrees_others
    # The others' mean removes what all cells of a seed share, and adds its own noise, pooled / k.
    of_baseline = (reference - mean).var(axis=1, ddof=1) - pooled / k
    is_noisier = of_baseline > pooled
    of_baseline = np.maximum(of_baseline, pooled)
    total = of_baseline + pooled
    with np.errstate(invalid="ignore"):
        degrees = total**2 / (of_baseline**2 / (num_seeds - 1) + pooled**2 / degrees_others)
    degrees = np.where(is_noisier, degrees, k * (num_seeds - 1.0))
    degrees = np.clip(degrees, num_seeds - 1.0, k * (num_seeds - 1.0))
    return Noise(np.maximum(own, total[:, None]), np.where(is_out, num_seeds - 1.0, degrees[:, None]), is_unstable)


def dunnett_p(t: float, num_comparisons: int, degrees: float) -> float:
    """Return the two-sided p of Dunnett's test: how often the largest of k |t| is at least |t| if nothing differs.

    Comparisons share one baseline and have equal variances, hence correlations of 0.5. NaN for NaN.
    """
    if np.isnan(t):
        return np.nan
    z, z_weights = _normal_nodes()
    s, s_weights = _spread_nodes(degrees)
    bound = np.sqrt(2) * abs(t) * s[:, None]
    within = (ndtr(z + bound) - ndtr(z - bound)) ** num_comparisons @ z_weights
    return float(np.clip(1 - within @ s_weights, 0, 1))


@lru_cache(maxsize=256)
def dunnett_critical(num_comparisons: int, degrees: float) -> float:
    """Return the |t| whose corrected p is 0.05."""
    return float(brentq(lambda t: dunnett_p(t, num_comparisons, degrees) - (1 - CONFIDENCE), 1.0, 1e4))


@lru_cache(maxsize=1)
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Return Gauss's nodes and weights for the standard normal distribution of the baseline's error."""
    z, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return z, weights / weights.sum()


@lru_cache(maxsize=64)
def _spread_nodes(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for the estimated standard deviation over the true one."""
    u, weights = np.polynomial.legendre.leggauss(_NODES)
    chi = stats.chi(degrees, scale=1 / np.sqrt(degrees))
    low, high = chi.ppf(1e-14), chi.isf(1e-14)
    s = low + (high - low) * (u + 1) / 2
    weights = weights * chi.pdf(s)
    return s, weights / weights.sum()


def crossed_intervals(
    comparisons: Comparisons,
    resampled: np.ndarray,
    case_degrees: float = np.inf,
    num_draws: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Return simultaneous 95 % intervals (k, 2) of the differences, for other seeds and other cases.

    resampled: (samples, k), the differences on bootstrap samples of the cases, averaged over these seeds; all cells
    have the same cases in a sample. case_degrees: of freedom, the number of drawn cases (or groups) less 1. Resampling
    few cases does not show how uncertain their spread is, so their deviations follow a t distribution.

    Each draw combines one of these samples with a new set of seeds: an error of the mean from the test's multivariate t
    distribution. (Resampling three seeds gives only ten samples, whose percentiles cover far too little.) Half-widths
    are a common multiple of each comparison's standard error, such that 95 % of draws have all differences inside
    (Westfall & Young 1993, «Resampling-based Multiple Testing»); for an unstable cell, such that they would if all had
    its degrees of freedom. Without error from the cases this is Dunnett's interval, which excludes 0 where p < 0.05.
    NaN where no sample of the cases defines the metric.
    """
    k = len(comparisons.differences)
    random = np.random.default_rng(seed)
    shared = random.standard_normal((num_draws, 1))
    normal = (random.standard_normal((num_draws, k)) - shared) / np.sqrt(2)
    defined = resampled[np.isfinite(resampled).all(axis=1)]  # a sample without one of the classes has no AUC
    if len(defined) < 2:
        return np.full((k, 2), np.nan)
    cases = (defined - defined.mean(axis=0))[random.integers(len(defined), size=num_draws)]
    cases *= np.sqrt(1 + 1 / case_degrees)  # a bootstrap of n has the variance of n, not of n - 1
    scale = np.sqrt(comparisons.standard_errors**2 + cases.var(axis=0))
    factors = np.empty(k)
    if np.isfinite(case_degrees):
        cases /= np.sqrt(random.chisquare(case_degrees, (num_draws, 1)) / case_degrees)
    for degrees in np.unique(comparisons.degrees):
        levels = (random.permutation(num_draws) + 0.5) / num_draws  # evenly spaced: the tails of 2 degrees are heavy
        errors = normal / np.sqrt(stats.chi2.ppf(levels, degrees) / degrees)[:, None]
        deviations = _ratio(errors * comparisons.standard_errors + cases, scale)
        drawn, of_seeds = (np.nan_to_num(abs(each)).max(axis=1) for each in (deviations, errors))
        # The seeds' own quantile is known, which removes most of the draws' chance.
        known = dunnett_critical(k, float(degrees)) / np.quantile(of_seeds, CONFIDENCE)
        factors[comparisons.degrees == degrees] = known * np.quantile(drawn, CONFIDENCE)
    half = np.where(np.isnan(comparisons.p), np.nan, factors * scale)
    return comparisons.differences[:, None] + np.outer(half, [-1, 1]).reshape(k, 2)


def wilcoxon_over_cases(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the p of Wilcoxon's signed-rank test over cases (N,), for these trained networks.

    It ignores training noise: two seeds of one cell differ «significantly» too. NaN with fewer than five cases that
    differ.
    """
    differences = (values - reference)[np.isfinite(values - reference)]
    differences = differences[differences != 0]
    if len(differences) < 5:
        return np.nan
    has_ties = len(np.unique(abs(differences))) < len(differences)
    method = "approx" if has_ties or len(differences) > 50 else "exact"  # SciPy's own choice permutes ties: slow
    return float(stats.wilcoxon(differences, method=method).pvalue)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0: seeds that agree to the last digit carry no information on noise."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)
