"""Means over cases, with what is known of their spread."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.metrics.arithmetic import nan_mean, row_means
from engine.metrics.bootstrap import MIN_UNITS, in_chunks, whole_and_samples

_CHUNK = 4_000_000  # deviations at a time: some temporaries of 32 MB


def summarise(
    values: np.ndarray,
    names: list[str],
    units: Sequence[object],
    num_samples: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Mean, sd, median and 95 % interval over the cases, for each column and for their mean.

    values: (cases, classes) float. NaN and infinities are left out: `num_cases` says how many values are in,
    `num_infinite` how many infinite ones are not. The entry "mean" is of the classes' means (its sd and median: of the
    cases' means over their classes). units: of each case, what was drawn as one, see `resampling_units`. bounds: what
    values lie between, and intervals with them. Numbers that don't exist (no case; the sd of one case) are NaN.
    """
    finite = np.where(np.isfinite(values), values, np.nan)
    per_class, overall = bootstrap_intervals(finite, units, num_samples, seed)
    per_class, overall = np.clip(per_class, *bounds), np.clip(overall, *bounds)
    infinite = np.isinf(values).sum(axis=0).tolist()
    rows = {n: {**_describe(finite[:, i], per_class[i]), "num_infinite": infinite[i]} for i, n in enumerate(names)}
    rows["mean"] = {**_describe(row_means(finite), overall), "mean": nan_mean(row_means(finite.T))}
    rows["mean"]["num_infinite"] = sum(infinite)
    return rows


def bootstrap_intervals(
    values: np.ndarray, units: Sequence[object], num_samples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Studentised bootstrap 95 % intervals of means: per class (classes, 2), of the mean over the classes (2,).

    values: (cases, classes) with NaN where a case has no value. Whole units (groups of cases, see `draw_weights`) are
    drawn; all classes share their draws, so that the mean's interval holds the cases' correlation. Each sample's
    deviation is measured in its own standard error, that of a ratio of sums over units (Davison & Hinkley 1997,
    «Bootstrap Methods and their Application», sections 2.4 and 5.2): of few or skewed cases a percentile interval is
    too narrow (`python -m benchmarks.intervals`). NaN where fewer than MIN_UNITS units have a value, of the mean where
    that is so in any class that has one.
    """
    _, unit_of_case = np.unique([str(unit) for unit in units], return_inverse=True)
    num_units, there = int(unit_of_case.max(initial=-1)) + 1, np.isfinite(values)
    sums, counts = (np.zeros((num_units, values.shape[1])) for _ in range(2))
    np.add.at(sums, unit_of_case, np.where(there, values, 0))
    np.add.at(counts, unit_of_case, there)
    filled = (counts > 0).sum(axis=0)
    is_enough = np.append(filled >= MIN_UNITS, filled.any() and filled[filled > 0].min() >= MIN_UNITS)
    intervals = np.full((len(is_enough), 2), np.nan)
    if is_enough.any():
        weights = whole_and_samples(range(num_units), num_samples, seed)
        chunks = [means_and_errors(chunk, sums, counts) for chunk in in_chunks(weights, _CHUNK)]
        means, errors = (np.concatenate(parts) for parts in zip(*chunks, strict=True))  # (1 + samples, classes + 1)
        for i in np.flatnonzero(is_enough):
            intervals[i] = studentised_interval(means[:, i], errors[:, i])
    return intervals[:-1], intervals[-1]


def studentised_interval(means: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of means[0], from the means and standard errors of all data, then of samples of them.

    A sample without spread is infinitely many errors away, so that an end is infinite where 2.5 % of samples are such.
    """
    mean, error, there = float(means[0]), float(errors[0]), np.isfinite(means[1:])
    if error <= 1e-12 * abs(mean):
        return mean, mean
    distances, own = (means[1:] - mean)[there], errors[1:][there]
    distances[abs(distances) < 1e-9 * error] = 0
    has_spread = own > 1e-9 * error
    t = np.where(distances == 0, 0.0, np.copysign(np.inf, distances))
    t[has_spread] = distances[has_spread] / own[has_spread]
    low, high = np.percentile(t, 2.5, method="lower"), np.percentile(t, 97.5, method="higher")
    return float(mean - high * error), float(mean - low * error)


def means_and_errors(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample, weights (samples, units), the classes' means, then the mean over them, and their errors.

    Both are (samples, classes + 1), from each unit's sum and number of values (units, classes); NaN where a class has
    none in a sample, which the mean over the classes leaves out.
    """
    units = np.count_nonzero(counts.any(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights @ counts  # (samples, classes)
        means = (weights @ sums) / total
        together, variances = np.zeros(weights.shape), []  # (samples, units)
        for c in range(counts.shape[1]):
            deviations = (sums[:, c] - means[:, c, None] * counts[:, c]) / total[:, c, None]
            variances.append((weights * deviations**2).sum(axis=1))
            together += np.nan_to_num(deviations)
        together /= np.isfinite(means).sum(axis=1, keepdims=True)
        variances.append((weights * together**2).sum(axis=1))
        errors = np.sqrt(np.stack(variances, axis=1) * units / (units - 1))
    return np.concatenate([means, row_means(means)[:, None]], axis=1), errors


def _describe(values: np.ndarray, interval: np.ndarray) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    return {
        "mean": nan_mean(values),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "median": float(np.median(values)) if len(values) else np.nan,
        "interval_95": interval.tolist(),
        "num_cases": len(values),
    }
