"""Means and quotients in which a number that doesn't exist is NaN, without NumPy's warnings."""

from collections.abc import Sequence

import numpy as np


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    return np.divide(a, b, out=np.full(shape, np.nan), where=np.asarray(b) != 0)


def nan_mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the finite values; NaN where there is none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else np.nan


def row_means(values: np.ndarray) -> np.ndarray:
    """Return the means (...) of the finite values (..., N); NaN where there is none."""
    there = np.isfinite(values)
    return divide(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1))
