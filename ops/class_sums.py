"""The sums over voxels that segmentation losses are formulas of."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ops import backend


@dataclass(frozen=True)
class ClassSums:
    """Sums over the voxels that count, each (N, K) float32."""

    overlap: mx.array  # of the probability of class k, over voxels of class k
    predicted: mx.array  # of the probability of class k
    reference: mx.array  # voxels of class k
    surprise: mx.array  # of -log p_k, over voxels of class k
    surprise_all: mx.array  # of -log p_k, over all voxels
    focal: mx.array  # of -(1 - p_k)^gamma log p_k, over voxels of class k


@dataclass(frozen=True)
class RegionSums:
    """Sums over the voxels that count, each (N, R) float32, of regions that are predicted each by itself."""

    overlap: mx.array  # of the probability of region r, over its voxels
    predicted: mx.array  # of the probability of region r
    reference: mx.array  # voxels of region r
    voxels: mx.array  # that count, the same for each region
    surprise: mx.array  # of binary cross-entropy


def class_sums(
    logits: mx.array, y: mx.array, ignore_label: int | None = None, focal_gamma: float | None = None
) -> ClassSums:
    """Return the sums of one prediction, differentiable in the logits.

    logits: (N, ..., K), any float type; (N, K) of a whole volume. y: (N, ...) integers; voxels of `ignore_label` do
    not count.
    focal_gamma: None leaves `focal` at zero, and saves a power of every probability.

    Raises ValueError where y does not fit the logits.
    """
    if logits.ndim < 2 or logits.shape[:-1] != y.shape:
        raise ValueError(f"class_sums: y must be {logits.shape[:-1]} for logits {logits.shape}, got {y.shape}")
    samples, classes = logits.shape[0], logits.shape[-1]
    if backend.runs_on_onednn(logits) and logits.size > 0:
        from ops.cpu import class_sums as cpu

        sums = cpu.class_sums(ignore_label, focal_gamma)
        return ClassSums(*sums(logits.reshape(samples, -1, classes), y.reshape(samples, -1).astype(mx.int32)))
    planes = logits.shape[1] if logits.ndim > 3 else 1  # sums of planes are summed: fewer digits lost
    voxels = (samples, planes, -1)
    sums = _plain(ignore_label, focal_gamma)
    return ClassSums(*sums(logits.reshape(*voxels, classes), y.reshape(voxels).astype(mx.int32)))


def region_sums(
    logits: mx.array, y: mx.array, table: mx.array, ignore_label: int | None = None, label_smoothing: float = 0.0
) -> RegionSums:
    """Return the sums of one prediction of R regions, differentiable in the logits.

    logits: (N, ..., R), any float type. y: (N, ...) integers, label values; voxels of `ignore_label` do not count.
    table: (V, R) bool, whether label value v lies in region r. label_smoothing pulls targets of `surprise` to 0.5.

    Raises ValueError where y or the table does not fit the logits.
    """
    if logits.ndim < 2 or logits.shape[:-1] != y.shape or table.shape[-1] != logits.shape[-1]:
        raise ValueError(
            f"region_sums: y must be {logits.shape[:-1]} and the table (values, {logits.shape[-1]}) for logits "
            f"{logits.shape}, got {y.shape} and {table.shape}"
        )
    samples, regions = logits.shape[0], logits.shape[-1]
    if backend.runs_on_onednn(logits) and logits.size > 0:
        from ops.cpu import region_sums as cpu

        flat = logits.reshape(samples, -1, regions), y.reshape(samples, -1).astype(mx.int32), table.astype(mx.int32)
        return RegionSums(*cpu.region_sums(ignore_label, label_smoothing)(*flat))
    voxels = (samples, logits.shape[1] if logits.ndim > 3 else 1, -1)
    sums = _plain_regions(ignore_label, label_smoothing)
    return RegionSums(*sums(logits.reshape(*voxels, regions), y.reshape(voxels).astype(mx.int32), table))


@functools.lru_cache(64)
def _plain_regions(ignore_label: int | None, label_smoothing: float) -> Any:
    """Return the operator in MLX's operations, regions first, as in `_plain`."""

    def parts(logits: mx.array, y: mx.array, table: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Logits (R, N, P, V); whether a voxel is of region r, of those that count; whether it counts (1, N, P, V)."""
        z = mx.contiguous(mx.moveaxis(logits.astype(mx.float32), -1, 0))
        counts = mx.ones((1, *y.shape), mx.bool_) if ignore_label is None else (y != ignore_label)[None]
        inside = mx.take(table.T, mx.where(counts[0], y, 0), axis=1)
        return z, inside & counts, counts

    def target(inside: mx.array) -> mx.array:
        return inside * (1 - label_smoothing) + label_smoothing / 2

    @mx.custom_function
    def operator(logits: mx.array, y: mx.array, table: mx.array) -> Sequence[mx.array]:
        z, inside, counts = parts(logits, y, table)
        p = mx.where(counts, mx.sigmoid(z), 0.0)

        def total(values: mx.array) -> mx.array:
            return values.sum(axis=-1).sum(axis=-1).T.astype(mx.float32)  # (N, R)

        surprise = mx.where(counts, mx.logaddexp(z, 0.0) - target(inside) * z, 0.0)
        voxels = mx.broadcast_to(total(counts), (logits.shape[0], len(z)))
        return total(mx.where(inside, p, 0.0)), total(p), total(inside), voxels, total(surprise)

    @operator.vjp
    def gradient(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        logits, y, table = primals
        (waiting,) = mx.depends([logits], list(cotangents))  # or mx.compile keeps the forward pass's p for here
        z, inside, counts = parts(waiting, y, table)
        overlap, predicted, _reference, _voxels, surprise = (c.T[..., None, None] for c in cotangents)
        p = mx.sigmoid(z)
        dz = p * (1 - p) * (inside * overlap + predicted) + (p - target(inside)) * surprise
        dz = mx.where(counts, dz, 0.0)
        return mx.moveaxis(dz, 0, -1).astype(logits.dtype), mx.zeros_like(y), mx.zeros_like(table)

    return operator


@functools.lru_cache(64)
def _plain(ignore_label: int | None, focal_gamma: float | None) -> Any:
    """Return the operator in MLX's operations; for the gradient only logits and y are kept.

    Within it classes come first: a GPU reduces a short first axis by a thread for each voxel, a short last axis by
    32 or more.
    """

    def parts(logits: mx.array, y: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        """log p and p (K, N, P, V), whether a voxel is of class k (K, N, P, V), whether it counts (N, P, V)."""
        z = mx.contiguous(mx.moveaxis(logits.astype(mx.float32), -1, 0))
        log_p = z - mx.logsumexp(z, axis=0, keepdims=True)
        is_class, counts = y == mx.arange(len(z)).reshape(-1, 1, 1, 1), None
        if ignore_label is not None:
            counts = y != ignore_label
            is_class = is_class & counts
        return log_p, mx.exp(log_p), is_class, counts

    def within(mask: mx.array | None, values: mx.array) -> mx.array:
        return values if mask is None else mx.where(mask, values, 0.0)

    def missed(p: mx.array) -> mx.array:
        return mx.maximum(1.0 - p, 1e-12)  # not 0 or, by rounding, below: its power or gradient would be NaN

    @mx.custom_function
    def operator(logits: mx.array, y: mx.array) -> Sequence[mx.array]:
        log_p, p, is_class, counts = parts(logits, y)

        def total(values: mx.array) -> mx.array:
            return values.sum(axis=-1).sum(axis=-1).T.astype(mx.float32)  # (N, K)

        reference = total(is_class)
        focal = mx.zeros_like(reference)
        if focal_gamma is not None:
            focal = -total(within(is_class, mx.power(missed(p), focal_gamma) * log_p))
        surprise, surprise_all = (-total(within(mask, log_p)) for mask in (is_class, counts))
        return total(within(is_class, p)), total(within(counts, p)), reference, surprise, surprise_all, focal

    @operator.vjp
    def gradient(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        logits, y = primals
        (waiting,) = mx.depends([logits], list(cotangents))  # or mx.compile keeps the forward pass's p for here
        log_p, p, is_class, counts = parts(waiting, y)
        by_sum = [c.T[..., None, None] for c in cotangents]  # (K, N, 1, 1)
        overlap, predicted, _reference, surprise, surprise_all, focal = by_sum
        by_log_p = within(is_class, p * overlap - surprise) + within(counts, p * predicted - surprise_all)
        if focal_gamma is not None:
            power = focal_gamma * mx.power(missed(p), focal_gamma - 1) * p * log_p - mx.power(missed(p), focal_gamma)
            by_log_p = by_log_p + within(is_class, power * focal)
        dz = by_log_p - p * by_log_p.sum(axis=0, keepdims=True)
        return mx.moveaxis(dz, 0, -1).astype(logits.dtype), mx.zeros_like(y)

    return operator
