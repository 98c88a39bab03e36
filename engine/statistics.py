"""Means over cases, with what is known of their spread."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def summarise(values: np.ndarray, names: list[str], num_samples: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Mean, sd, median and bootstrap 95 % interval over the cases, for each column and for their mean.

    values: (cases, classes) float. NaN and infinities are left out, and `num_cases` says how many values are
    in. The entry "mean" is of the classes' means (its sd and median: of the cases' means over their classes).
    Numbers that don't exist (no case; the sd of one case) are NaN.
    """
    finite = np.where(np.isfinite(values), values, np.nan)
    per_class, overall = bootstrap_intervals(finite, num_samples, seed)
    rows = {name: _describe(finite[:, i], per_class[i]) for i, name in enumerate(names)}
    rows["mean"] = {**_describe(row_means(finite), overall), "mean": nan_mean(_column_means(finite))}
    return rows


def bootstrap_intervals(values: np.ndarray, num_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Percentile-bootstrap 95 % intervals, cases being drawn: per class (classes, 2), of the mean over them (2,).

    values: (cases, classes) with NaN where a case has no value. A class's interval is NaN with fewer than two
    values. All classes share their draws, so that the mean's interval holds the cases' correlation. (Efron &
    Tibshirani 1993, «An Introduction to the Bootstrap», chapter 13.)
    """
    num_cases, num_classes = values.shape
    there = np.isfinite(values)
    if num_cases < 2:
        return np.full((num_classes, 2), np.nan), np.full(2, np.nan)
    # How often each case is drawn, (samples, cases): a product with it sums a sample without building it.
    drawn = np.random.default_rng(seed).multinomial(num_cases, np.full(num_cases, 1 / num_cases), num_samples)
    with np.errstate(invalid="ignore"):
        means = (drawn @ np.where(there, values, 0)) / (drawn @ there)  # (samples, classes)
    means[:, there.sum(axis=0) < 2] = np.nan
    return _interval(means).T, _interval(row_means(means)[:, None])[:, 0]


def _interval(means: np.ndarray) -> np.ndarray:
    """(2, columns); samples without a value are left out."""
    result = np.full((2, means.shape[1]), np.nan)
    some = np.isfinite(means).any(axis=0)
    result[:, some] = np.nanpercentile(means[:, some], [2.5, 97.5], axis=0)
    return result


def _describe(values: np.ndarray, interval: np.ndarray) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    return {
        "mean": nan_mean(values),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "median": float(np.median(values)) if len(values) else np.nan,
        "interval_95": interval.tolist(),
        "num_cases": len(values),
    }


def nan_mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of the finite values; NaN, without NumPy's warning, where there is none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def row_means(values: np.ndarray) -> np.ndarray:
    """Means of the values that there are, one a row; NumPy's nanmean warns of empty rows."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)


def _column_means(values: np.ndarray) -> np.ndarray:
    return row_means(values.T)
