"""`ops.region_sums` on a Linux CPU, by Numba: sigmoids and their sums over voxels in one pass over the logits.

Blocks, lanes and tasks are those of `ops.cpu.class_sums`; voxels of each region are a row of lanes.
"""

import functools
from typing import Any

import numba
import numpy as np

from ops.cpu.class_sums import CHUNK, LANES, NO_LABEL, sums_operator
from ops.cpu.kernels import exp, integer, kernel, labels, load, number, store, tasks, thread_number, vector, volume

SUMS = 5  # overlap, predicted, reference, voxels, surprise


@functools.lru_cache(64)
def region_sums(ignore_label: int | None, label_smoothing: float) -> Any:
    """Return the operator on logits (N, V, R), float32 or bfloat16, y (N, V) int32 and table (values, R) int32.

    It gives (N, R) for each of SUMS.
    """
    numbers = (NO_LABEL if ignore_label is None else ignore_label, float(label_smoothing))
    return sums_operator(sums, gradient, SUMS, lambda _: 3, numbers)


@numba.njit(fastmath={"contract", "nsz"})
def _sigmoid(logits, at, region, voxels, regions, scratch, own):  # type: ignore[no-untyped-def]
    """Fill this thread's scratch, from `own` on, with LANES logits of a region, their sigmoids, and log(1 + e^-|z|)."""
    p, rest = own + LANES, own + 2 * LANES
    for i in range(voxels):
        scratch[own + i] = load(logits, (at + i) * regions + region)
    for i in range(voxels, LANES):
        scratch[own + i] = 0
    for i in range(LANES):
        z = scratch[own + i]
        e = exp(-abs(z))
        larger = np.float32(1) / (np.float32(1) + e)  # of p and 1 - p
        scratch[p + i] = larger if z >= 0 else e * larger
        scratch[rest + i] = np.log(np.float32(1) + e)


@kernel
def sums(a):  # type: ignore[no-untyped-def]
    """partial (tasks, SUMS, regions, LANES), zeros, += the sums of `ops.RegionSums` over a task's voxels."""
    logits, y, table, partial, scratch = volume(a, 1), labels(a, 2), labels(a, 3), vector(a, 4), vector(a, 5)
    voxels, regions, chunks = integer(a, 6), integer(a, 7), integer(a, 8)
    ignored, smoothing = integer(a, 9), number(a, 10)
    size, own = regions * LANES, thread_number() * 3 * LANES
    half = np.float32(0.5) * smoothing
    for task in tasks(a):
        sample, start = task // chunks, task % chunks * CHUNK
        stop = min(voxels, start + CHUNK)
        for block in range(start, stop, LANES):
            at, lanes = sample * voxels + block, min(LANES, stop - block)
            for r in range(regions):
                _sigmoid(logits, at, r, lanes, regions, scratch, own)
                row = task * SUMS * size + r * LANES
                for i in range(lanes):
                    label = y[at + i]
                    if label != ignored:
                        z, p = scratch[own + i], scratch[own + LANES + i]
                        inside = np.float32(table[label * regions + r])
                        target = inside * (np.float32(1) - smoothing) + half
                        partial[row + i] += inside * p
                        partial[row + size + i] += p
                        partial[row + 2 * size + i] += inside
                        partial[row + 3 * size + i] += np.float32(1)
                        above = z if z > 0 else np.float32(0)
                        partial[row + 4 * size + i] += above + scratch[own + 2 * LANES + i] - target * z


@kernel
def gradient(a):  # type: ignore[no-untyped-def]
    """dlogits from the sums' cotangents (samples, SUMS, regions)."""
    logits, dlogits, y, table = volume(a, 1), volume(a, 2), labels(a, 3), labels(a, 4)
    scratch, cotangents = vector(a, 5), vector(a, 6)
    voxels, regions, chunks = integer(a, 7), integer(a, 8), integer(a, 9)
    ignored, smoothing = integer(a, 10), number(a, 11)
    own = thread_number() * 3 * LANES
    half = np.float32(0.5) * smoothing
    for task in tasks(a):
        sample, start = task // chunks, task % chunks * CHUNK
        stop = min(voxels, start + CHUNK)
        c = sample * SUMS * regions
        for block in range(start, stop, LANES):
            at, lanes = sample * voxels + block, min(LANES, stop - block)
            for r in range(regions):
                _sigmoid(logits, at, r, lanes, regions, scratch, own)
                overlap, predicted = cotangents[c + r], cotangents[c + regions + r]
                surprise = cotangents[c + 4 * regions + r]
                for i in range(lanes):
                    label, by_z = y[at + i], np.float32(0)
                    if label != ignored:
                        p = scratch[own + LANES + i]
                        inside = np.float32(table[label * regions + r])
                        target = inside * (np.float32(1) - smoothing) + half
                        by_z = p * (np.float32(1) - p) * (inside * overlap + predicted) + (p - target) * surprise
                    store(dlogits, (at + i) * regions + r, by_z)
