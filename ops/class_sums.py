"""The sums over voxels that segmentation losses are formulas of."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ops import backend
from ops.arrays import empty, view

_NO_LABEL = -(2**31)  # is ignored where nothing is


@dataclass(frozen=True)
class ClassSums:
    """Sums over the voxels that count, each (N, K) float32."""

    overlap: mx.array  # of the probability of class k, over voxels of class k
    predicted: mx.array  # of the probability of class k
    reference: mx.array  # voxels of class k
    surprise: mx.array  # of -log p_k, over voxels of class k
    surprise_all: mx.array  # of -log p_k, over all voxels
    focal: mx.array  # of -(1 - p_k)^gamma log p_k, over voxels of class k


def class_sums(
    logits: mx.array, y: mx.array, ignore_label: int | None = None, focal_gamma: float | None = None
) -> ClassSums:
    """Return the sums of one prediction, differentiable in the logits.

    logits: (N, ..., K), any float type; (N, K) of a whole volume. y: (N, ...) integers; those of `ignore_label`
    count nowhere.
    focal_gamma: None leaves `focal` at zero, and saves a power of every probability.

    Raises ValueError where y does not fit the logits.
    """
    if logits.ndim < 2 or logits.shape[:-1] != y.shape:
        raise ValueError(f"class_sums: y must be {logits.shape[:-1]} for logits {logits.shape}, got {y.shape}")
    samples, classes = logits.shape[0], logits.shape[-1]
    native = backend.active() == "onednn" and logits.dtype in (mx.float32, mx.bfloat16) and logits.size > 0
    form = _cpu(ignore_label, focal_gamma) if native else functools.partial(_plain, ignore_label, focal_gamma)
    return ClassSums(*form(logits.reshape(samples, -1, classes), y.reshape(samples, -1)))


def _plain(ignore_label: int | None, focal_gamma: float | None, logits: mx.array, y: mx.array) -> Sequence[mx.array]:
    logits, y = logits.astype(mx.float32), y.astype(mx.int32)[..., None]  # (N, V, K), (N, V, 1)
    is_class = y == mx.arange(logits.shape[-1])  # (N, V, K)
    counts = None if ignore_label is None else y != ignore_label  # (N, V, 1)
    if counts is not None:
        is_class = is_class & counts
    log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    p = mx.exp(log_p)

    def over(mask: mx.array | None, values: mx.array) -> mx.array:
        return mx.sum(values if mask is None else mx.where(mask, values, 0.0), axis=1)

    reference = mx.sum(is_class, axis=1).astype(mx.float32)
    focal = mx.zeros_like(reference)
    if focal_gamma is not None:
        missed = mx.maximum(1.0 - p, 1e-12)  # not 0 or, by rounding, below: its power or gradient would be NaN
        focal = over(is_class, -mx.power(missed, focal_gamma) * log_p)
    return over(is_class, p), over(counts, p), reference, over(is_class, -log_p), over(counts, -log_p), focal


@functools.lru_cache(64)
def _cpu(ignore_label: int | None, focal_gamma: float | None) -> Any:
    from ops import class_sum_kernels as kernels

    ignored = _NO_LABEL if ignore_label is None else ignore_label
    numbers = (ignored, int(focal_gamma is not None), float(focal_gamma or 0))

    def memory(logits: mx.array) -> tuple[int, tuple[int, int, int], np.ndarray]:
        """Number of tasks, the arguments that describe the shape, scratch."""
        samples, voxels, classes = logits.shape
        chunks = -(-voxels // kernels.CHUNK)
        scratch = np.empty((backend.threads(), kernels.scratch_size(classes)), np.float32)
        return samples * chunks, (voxels, classes, chunks), scratch

    @mx.custom_function
    def operator(logits: mx.array, y: mx.array) -> Sequence[mx.array]:
        tasks, shape, scratch = memory(logits)
        samples, _, classes = logits.shape
        partial = np.empty((samples, shape[2], kernels.SUMS, classes, kernels.LANES), np.float32)
        kernels.sums(tasks, view(logits), view(y), partial, scratch, *shape, *numbers)
        totals = partial.sum(axis=(1, 4), dtype=np.float64).astype(np.float32)  # (N, SUMS, K)
        return tuple(mx.array(totals[:, i]) for i in range(kernels.SUMS))

    @operator.vjp
    def gradient(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        logits, y = primals
        tasks, shape, scratch = memory(logits)
        by_sum = view(mx.stack(list(cotangents), axis=1))  # (N, SUMS, K)
        dlogits, out = empty(logits.shape, logits.dtype)
        kernels.gradient(tasks, view(logits), out, view(y), scratch, by_sum, *shape, *numbers)
        return dlogits, mx.zeros_like(y)

    return lambda logits, y: operator(logits, y.astype(mx.int32))
