"""`ops.norm_act_dropout` on a Linux CPU, by Numba."""

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ops.cpu import norm_kernels as kernels
from ops.cpu.arrays import empty, view
from ops.norm_statistics import average_over_sets, gradient_of, per_channel, pool_statistics


@functools.cache
def norm_act_dropout(norm: str, groups: int, eps: float, slope: float, given: bool) -> Any:
    """Return the operator on x (N, ..., C), float32 or bfloat16 and not empty; its other arguments are float32.

    given: whether mean and variance are arguments, rather than x's own. The mask is of ones where there is a residual.
    """

    def standardisation(mean: np.ndarray, variance: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and 1 / standard deviation, broadcastable to (N, C), from statistics in the norm's own shape."""
        rstd = 1 / np.sqrt(variance.astype(np.float64) + eps)
        return per_channel(mean, channels), per_channel(rstd, channels)

    @mx.custom_function
    def operator(
        x: mx.array,
        weight: mx.array,
        bias: mx.array,
        mask: mx.array,
        mean: mx.array,
        variance: mx.array,
        *residual: mx.array,
    ) -> Sequence[mx.array]:
        volume = view(x)
        layout = kernels.layout(x.shape[0], x.size // (x.shape[0] * x.shape[-1]), x.shape[-1])
        if given:
            statistics = view(mean), view(variance)
        else:
            statistics = pool_statistics(norm, groups, *kernels.channel_moments(volume, layout))
        centre, rstd = standardisation(*statistics, layout.channels)
        m = view(mask)
        vectors = [layout.repeat(v) for v in (centre, rstd * view(weight) * m, view(bias) * m)]
        y, out = empty(x.shape, x.dtype)
        normalise = kernels.normalise_add_act if residual else kernels.normalise_act
        normalise(layout.tasks, volume, *layout.arguments, out, *vectors, slope, *map(view, residual))
        return y, *(mx.array(s.astype(np.float32)) for s in statistics)

    @operator.vjp
    def gradients(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        x, weight, bias, mask, _, _, *residual = primals
        volume, g, w, m = view(x), view(cotangents[0]), view(weight), view(mask)
        layout = kernels.layout(m.shape[0], x.size // m.size, m.shape[1])
        centre, rstd = standardisation(view(outputs[1]), view(outputs[2]), layout.channels)
        mean, partial, behind = layout.repeat(centre), layout.partial(), []
        # u is the gradient behind the activation; wanted: its sum, and its product with the normalised input.
        if residual:
            scale, shift, by_u = layout.repeat(0), layout.repeat(1), rstd * w
            dr, out = empty(x.shape, x.dtype)
            arrays = [view(outputs[0]), g, out, mean]
            kernels.gradient_residual(layout.tasks, volume, *layout.arguments, *arrays, slope, *partial)
            sum_u, dot = map(layout.total, partial)
            g, behind = out, [dr]  # the activation is in it
        else:
            scale, shift, by_u = layout.repeat(rstd * w), layout.repeat(view(bias)), rstd * w * m
            arrays = [g, mean, scale, shift]
            kernels.gradient_sums(layout.tasks, volume, *layout.arguments, *arrays, slope, *partial)
            sum_u, dot = (layout.total(p) * m for p in partial)
        dot = dot * rstd
        dx, out = empty(x.shape, x.dtype)
        if given:
            by_x = constant = np.float64(0)
        else:
            mean_gx, mean_g = (average_over_sets(norm, groups, w * total * m.size / x.size) for total in (dot, sum_u))
            by_x, constant = -rstd * rstd * mean_gx, -rstd * mean_g
        vectors = [layout.repeat(v) for v in (by_u, by_x, constant)]
        arrays = [g, mean, scale, shift]
        kernels.gradient_input(layout.tasks, volume, *layout.arguments, *arrays, slope, *vectors, out)
        dw, db = (mx.array(gradient_of(p, t).astype(np.float32)) for p, t in ((weight, dot), (bias, sum_u)))
        return dx, dw, db, *(mx.zeros_like(a) for a in primals[3:6]), *behind

    return operator
