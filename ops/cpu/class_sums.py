"""`ops.class_sums` on a Linux CPU, by Numba: softmax and its sums over voxels in one pass over the logits.

A block of LANES voxels is turned from (voxel, class) to (class, lane), where the arithmetic vectorises; each
lane keeps its own sums.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numba
import numpy as np

from ops import backend
from ops.cpu.arrays import empty, view
from ops.cpu.kernels import exp, integer, kernel, labels, load, number, store, tasks, thread_number, vector, volume

LANES = 64
CHUNK = 64 * LANES  # voxels of a task: a float32 sum has 64 terms
SUMS = 6  # overlap, predicted, reference, surprise, surprise_all, focal

NO_LABEL = -(2**31)  # is ignored where nothing is

Kernel = Callable[..., None]


@functools.lru_cache(64)
def class_sums(ignore_label: int | None, focal_gamma: float | None) -> Any:
    """Return the operator on logits (N, V, K), float32 or bfloat16, and y (N, V) int32: (N, K) for each of SUMS."""
    ignored = NO_LABEL if ignore_label is None else ignore_label
    numbers = (ignored, int(focal_gamma is not None), float(focal_gamma or 0))
    return sums_operator(sums, gradient, SUMS, lambda classes: 2 * classes + 2, numbers)


def sums_operator(
    sums: Kernel, gradient: Kernel, num_sums: int, scratch_rows: Callable[[int], int], numbers: tuple[float, ...]
) -> Any:
    """Return the operator on logits (N, V, K) and int32 arrays that have no gradient: (N, K) for each of the sums.

    sums, gradient  the kernels, which take the arrays, scratch, the shape (V, K, chunks) and `numbers`
    scratch_rows    how many rows of LANES a thread needs for K outputs
    """

    def memory(logits: mx.array) -> tuple[int, tuple[int, int, int], np.ndarray]:
        """Number of tasks, the arguments that describe the shape, scratch."""
        samples, voxels, outputs = logits.shape
        chunks = -(-voxels // CHUNK)
        scratch = np.empty((backend.threads(), scratch_rows(outputs) * LANES), np.float32)
        return samples * chunks, (voxels, outputs, chunks), scratch

    @mx.custom_function
    def operator(logits: mx.array, *given: mx.array) -> Sequence[mx.array]:
        num_tasks, shape, scratch = memory(logits)
        partial = np.zeros((logits.shape[0], shape[2], num_sums, shape[1], LANES), np.float32)
        sums(num_tasks, view(logits), *map(view, given), partial, scratch, *shape, *numbers)
        totals = partial.sum(axis=(1, 4), dtype=np.float64).astype(np.float32)  # (N, sums, K)
        return tuple(mx.array(totals[:, i]) for i in range(num_sums))

    @operator.vjp
    def gradients(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]
    ) -> Sequence[mx.array]:
        logits, *given = primals
        num_tasks, shape, scratch = memory(logits)
        by_sum = view(mx.stack(list(cotangents), axis=1))  # (N, sums, K)
        dlogits, out = empty(logits.shape, logits.dtype)
        gradient(num_tasks, view(logits), out, *map(view, given), scratch, by_sum, *shape, *numbers)
        return dlogits, *map(mx.zeros_like, given)

    return operator


@numba.njit(fastmath={"contract", "nsz"})
def _softmax(logits, at, voxels, classes, scratch, own):  # type: ignore[no-untyped-def]
    """Fill this thread's scratch, from `own` on, with log p (classes, LANES), then p; lanes past `voxels` vary."""
    p, top, total = own + classes * LANES, own + 2 * classes * LANES, own + (2 * classes + 1) * LANES
    for i in range(LANES):
        scratch[top + i] = -np.inf
        scratch[total + i] = 0
    for k in range(classes):
        row = own + k * LANES
        for i in range(voxels):
            scratch[row + i] = load(logits, (at + i) * classes + k)
        for i in range(voxels, LANES):
            scratch[row + i] = 0
        for i in range(LANES):
            v, best = scratch[row + i], scratch[top + i]
            scratch[top + i] = v if v > best or v != v else best
    for k in range(classes):
        for i in range(LANES):
            e = exp(scratch[own + k * LANES + i] - scratch[top + i])
            scratch[p + k * LANES + i] = e
            scratch[total + i] += e
    for i in range(LANES):
        scratch[top + i] += np.log(scratch[total + i])
        scratch[total + i] = np.float32(1) / scratch[total + i]
    for k in range(classes):
        for i in range(LANES):
            scratch[own + k * LANES + i] -= scratch[top + i]
            scratch[p + k * LANES + i] *= scratch[total + i]


@kernel
def sums(a):  # type: ignore[no-untyped-def]
    """partial (tasks, SUMS, classes, LANES), zeros, += the sums of `ops.class_sums.ClassSums` over a task's voxels."""
    logits, y, partial, scratch = volume(a, 1), labels(a, 2), vector(a, 3), vector(a, 4)
    voxels, classes, chunks = integer(a, 5), integer(a, 6), integer(a, 7)
    ignored, has_focal, gamma = integer(a, 8), integer(a, 9), number(a, 10)
    size = classes * LANES
    own = thread_number() * (2 * size + 2 * LANES)
    for task in tasks(a):
        sample, start = task // chunks, task % chunks * CHUNK
        stop = min(voxels, start + CHUNK)
        to = task * SUMS * size
        for block in range(start, stop, LANES):
            at, lanes = sample * voxels + block, min(LANES, stop - block)
            _softmax(logits, at, lanes, classes, scratch, own)
            for k in range(classes):
                row = to + k * LANES
                for i in range(lanes):
                    log_p, p = scratch[own + k * LANES + i], scratch[own + size + k * LANES + i]
                    label = y[at + i]
                    if label != ignored:
                        partial[row + size + i] += p
                        partial[row + 4 * size + i] -= log_p
                        if label == k:
                            partial[row + i] += p
                            partial[row + 2 * size + i] += np.float32(1)
                            partial[row + 3 * size + i] -= log_p
                if has_focal:
                    for i in range(lanes):
                        log_p, p = scratch[own + k * LANES + i], scratch[own + size + k * LANES + i]
                        if y[at + i] == k and k != ignored:
                            missed = max(np.float32(1) - p, np.float32(1e-12))
                            partial[row + 5 * size + i] -= missed**gamma * log_p


@kernel
def gradient(a):  # type: ignore[no-untyped-def]
    """dlogits from the sums' cotangents (samples, SUMS, classes).

    With r_k the derivative by log p_k, the derivative by logit k is r_k - p_k * (the sum of r).
    """
    logits, dlogits, y, scratch, cotangents = volume(a, 1), volume(a, 2), labels(a, 3), vector(a, 4), vector(a, 5)
    voxels, classes, chunks = integer(a, 6), integer(a, 7), integer(a, 8)
    ignored, has_focal, gamma = integer(a, 9), integer(a, 10), number(a, 11)
    size = classes * LANES
    own = thread_number() * (2 * size + 2 * LANES)
    total = own + 2 * size
    for task in tasks(a):
        sample, start = task // chunks, task % chunks * CHUNK
        stop = min(voxels, start + CHUNK)
        c = sample * SUMS * classes
        for block in range(start, stop, LANES):
            at, lanes = sample * voxels + block, min(LANES, stop - block)
            _softmax(logits, at, lanes, classes, scratch, own)
            for i in range(LANES):
                scratch[total + i] = 0
            for k in range(classes):
                overlap, predicted = cotangents[c + k], cotangents[c + classes + k]
                surprise, surprise_all = cotangents[c + 3 * classes + k], cotangents[c + 4 * classes + k]
                focal = cotangents[c + 5 * classes + k]
                for i in range(lanes):
                    p = scratch[own + size + k * LANES + i]
                    label = y[at + i]
                    r = predicted * p - surprise_all
                    if label == k:
                        r += overlap * p - surprise
                        if has_focal:
                            missed = max(np.float32(1) - p, np.float32(1e-12))
                            log_p = scratch[own + k * LANES + i]
                            r += focal * (gamma * p * missed ** (gamma - np.float32(1)) * log_p - missed**gamma)
                    r = r if label != ignored else np.float32(0)
                    scratch[own + k * LANES + i] = r
                    scratch[total + i] += r
            for k in range(classes):
                for i in range(lanes):
                    r, p = scratch[own + k * LANES + i], scratch[own + size + k * LANES + i]
                    store(dlogits, (at + i) * classes + k, r - p * scratch[total + i])
