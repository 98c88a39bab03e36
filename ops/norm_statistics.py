"""The values that a norm takes its statistics over. The functions take NumPy's arrays and MLX's."""

from typing import Any

import mlx.core as mx
import numpy as np


def pool_statistics(norm: str, groups: int, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Pool mean and variance of equally large parts, (N, C), into those of the sets that the norm is over."""
    if norm == "instance":
        return mean, variance
    axis = 0
    if norm == "group":
        mean, variance = (a.reshape(len(a), groups, -1) for a in (mean, variance))
        axis = 2
    return mean.mean(axis=axis), variance.mean(axis=axis) + mean.var(axis=axis)


def average_over_sets(norm: str, groups: int, values: Any) -> Any:
    """Return values (N, C) averaged over the sets that the norm is over."""
    if norm == "instance":
        return values
    if norm == "batch":
        return values.mean(axis=0, keepdims=True)
    return per_channel(values.reshape(len(values), groups, -1).mean(axis=2), values.shape[1])


def per_channel(a: Any, channels: int) -> Any:
    """Return (N, groups) repeated to (N, C); arrays with a value per channel, (N, C) or (C,), unchanged."""
    if a.shape[-1] == channels:
        return a
    return (np if isinstance(a, np.ndarray) else mx).repeat(a, channels // a.shape[-1], axis=1)


def gradient_of(parameter: mx.array, total: Any) -> Any:
    """Return a parameter's gradient from total (N, C): summed over samples unless the parameter is per sample."""
    return total if parameter.ndim == 2 else total.sum(axis=0)
