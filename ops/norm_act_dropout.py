"""Normalisation, activation and channel dropout in one call: two passes over the volume, two more backward.

A channel mask of zeros and a positive constant commutes with (leaky) ReLU, so it folds into the scale and
shift of the normalisation, and the gradients need only the input. With a residual, the mask folds into weight and bias.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ops import backend
from ops.norm_statistics import average_over_sets, gradient_of, per_channel, pool_statistics

NORMS = ("instance", "batch", "group")
Statistics = tuple[mx.array, mx.array]


def norm_act_dropout(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    mask: mx.array | None = None,
    *,
    norm: str = "instance",
    groups: int = 1,
    eps: float = 1e-5,
    slope: float = 1.0,
    residual: mx.array | None = None,
    statistics: Statistics | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """Return y = act((normalise(x) * weight + bias) * mask + residual), and the mean and variance it used.

    x: (N, ..., C) float32 or bfloat16; y has its shape and dtype.
    weight, bias: (C,) float32, or (N, C) for each sample its own.
    mask: (N, C) float32 of zeros and one positive constant, 1 / (1 - p); no gradient flows to it.
    norm: over space ("instance"), space and samples ("batch"), or space and the channels of one of `groups`
        groups ("group").
    slope: of the activation where its argument is negative: 0 ReLU, 1 none.
    residual: as x, added before the activation, and not masked.
    statistics: mean and variance, (C,) each, to use in place of x's own: batch norm in evaluation.

    The statistics are float32, the variance the biased one: (N, C) for instance, (C,) for batch, (N, groups)
    for group norm. No gradient flows through them as outputs, or to them as arguments. At an argument of
    zero the activation's derivative is `slope`.

    Raises ValueError for arguments that do not fit x.
    """
    _check(x, weight, bias, mask, norm, groups, residual, statistics)
    if residual is not None and mask is not None:  # else the mask would apply to the residual too
        mask = mx.stop_gradient(mask)
        weight = mask if weight is None else weight * mask  # (N, C)
        bias, mask = None if bias is None else bias * mask, None
    channels = x.shape[-1]
    ones, zeros = mx.ones((channels,)), mx.zeros((channels,))
    mean, variance = statistics or (zeros, ones)
    arguments = (
        x,
        ones if weight is None else weight.astype(mx.float32),
        zeros if bias is None else bias.astype(mx.float32),
        mx.ones((x.shape[0], channels)) if mask is None else mask.astype(mx.float32),
        mean.astype(mx.float32),
        variance.astype(mx.float32),
        *(() if residual is None else (residual,)),
    )
    form = _plain
    if backend.runs_on_onednn(x) and x.size > 0:
        from ops.cpu import norm_act_dropout as cpu

        form = cpu.norm_act_dropout
    y, mean, variance = form(norm, groups, float(eps), float(slope), statistics is not None)(*arguments)
    return y, mx.stop_gradient(mean), mx.stop_gradient(variance)


def _check(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    mask: mx.array | None,
    norm: str,
    groups: int,
    residual: mx.array | None,
    statistics: Statistics | None,
) -> None:
    if x.ndim < 3:
        raise ValueError(f"norm_act_dropout: x must be (N, ..., C) with an axis of space, got {x.shape}")
    samples, channels = x.shape[0], x.shape[-1]
    if norm not in NORMS:
        raise ValueError(f"norm_act_dropout: norm={norm!r} must be one of {', '.join(NORMS)}")
    if norm == "group" and (groups < 1 or channels % groups):
        raise ValueError(f"norm_act_dropout: groups={groups} must divide x's {channels} channels")
    if statistics is not None and norm != "batch":
        raise ValueError(f"norm_act_dropout: statistics are for norm='batch', got norm={norm!r}")
    mean, variance = statistics or (None, None)
    one, each = (channels,), (samples, channels)
    expected: list[tuple[str, mx.array | None, tuple[tuple[int, ...], ...]]]
    expected = [("weight", weight, (one, each)), ("bias", bias, (one, each)), ("mask", mask, (each,))]
    expected += [("mean", mean, (one,)), ("variance", variance, (one,)), ("residual", residual, (x.shape,))]
    for name, array, shapes in expected:
        if array is not None and array.shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"norm_act_dropout: {name} must be {wanted} for x {x.shape}, got {array.shape}")
    if residual is not None and residual.dtype != x.dtype:
        raise ValueError(f"norm_act_dropout: residual must be {x.dtype} as x is, got {residual.dtype}")


@functools.cache
def _plain(norm: str, groups: int, eps: float, slope: float, given: bool) -> Any:
    """Return the operator in MLX's operations: all in float32; only x, or y, is kept for the gradients.

    Between passes over the volume stands `mx.depends`. Otherwise mx.compile would share what passes have in common:
    one float32 copy of x, from the first pass to the gradient. To read x and the gradient again costs less than that.
    """

    def over_space(vector: mx.array, x: mx.array) -> mx.array:
        """(C,) or (N, C), to go with x (N, ..., C)."""
        return vector.reshape(-1, *[1] * (x.ndim - 2), x.shape[-1])

    def deviation(x: mx.array, centre: mx.array) -> mx.array:
        return x.astype(mx.float32) - over_space(centre, x)

    def total(values: mx.array) -> mx.array:
        """(N, ..., C) -> (N, C); in two stages, as one float32 sum over a volume loses digits on the CPU."""
        inner = tuple(range(2, values.ndim - 1))
        return (values.sum(axis=inner) if inner else values).sum(axis=1)

    def moments(x: mx.array) -> Statistics:
        count = math.prod(x.shape[1:-1])
        mean = total(x.astype(mx.float32)) / count
        (x,) = mx.depends([x], [mean])
        return mean, total(mx.square(deviation(x, mean))) / count

    def activate(v: mx.array) -> mx.array:
        return v if slope == 1 else (mx.maximum if slope < 1 else mx.minimum)(v, slope * v if slope else 0.0)

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
        v = x
        if not given:
            mean, variance = pool_statistics(norm, groups, *moments(x))
            (v,) = mx.depends([x], [variance])
        centre, rstd = per_channel(mean, x.shape[-1]), per_channel(mx.rsqrt(variance + eps), x.shape[-1])
        if residual:
            v = deviation(v, centre) * over_space(rstd * weight, x) + over_space(bias, x)
            v = activate(v + residual[0].astype(mx.float32))
        else:
            v = activate(deviation(v, centre) * over_space(rstd * weight * mask, x) + over_space(bias * mask, x))
        return v.astype(x.dtype), mean, variance

    @operator.vjp
    def gradients(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        x, weight, bias, mask, _, _, *residual = primals
        y, mean, variance = outputs
        centre, rstd = per_channel(mean, x.shape[-1]), per_channel(mx.rsqrt(variance + eps), x.shape[-1])

        def behind(x: mx.array, g: mx.array) -> mx.array:
            """Return the gradient behind the activation."""
            factor = over_space(mask, x)
            if slope != 1:
                v = y if residual else deviation(x, centre) * over_space(rstd * weight, x) + over_space(bias, x)
                factor = mx.where(v > 0, factor, slope * factor)
            return g.astype(mx.float32) * factor

        (g,) = cotangents[:1]
        (v,) = mx.depends([x], [g])
        sum_u = total(behind(v, g))
        v, g = mx.depends([x, g], [sum_u])
        dot = total(behind(v, g) * deviation(v, centre)) * rstd
        if not given:  # else the sums may be unused
            v, g = mx.depends([x, g], [dot])
        u = behind(v, g)
        dx = u * over_space(rstd * weight, x)
        if not given:
            count = math.prod(x.shape[1:-1])
            mean_gx, mean_g = (average_over_sets(norm, groups, weight * total_ / count) for total_ in (dot, sum_u))
            dx = dx - (deviation(v, centre) * over_space(rstd * rstd * mean_gx, x) + over_space(rstd * mean_g, x))
        behind_ = [u.astype(x.dtype)] if residual else []
        return (
            dx.astype(x.dtype),
            gradient_of(weight, dot),
            gradient_of(bias, sum_u),
            *(mx.zeros_like(a) for a in primals[3:6]),
            *behind_,
        )

    return operator
