"""The passes of normalisation, activation and channel dropout over a volume. Imported lazily (Numba).

A volume is (N, S, C) in memory, S voxels. Kernels see each sample as one run of S * C numbers, cut into
rows of whole voxels, wide enough to vectorise, and chunks of rows, which are the tasks. Per-channel vectors
come repeated to a row's width. Chunks depend only on the shape, so sums do not depend on the threads.

Of a kernel the first argument is a volume, the next four are `Layout.arguments`.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np

from ops.cpu.kernels import integer, kernel, load, number, store, tasks, vector, volume

ROW = 256  # numbers at least: 16 AVX-512 registers
ROWS = 256  # at most in a chunk: float32 sums of so few terms are exact enough
CHUNKS = 8  # a sample at least, where it is large enough


@dataclass(frozen=True)
class Layout:
    """How a volume of N samples of S voxels and C channels is cut; counts are of numbers, not bytes."""

    samples: int
    size: int  # of a sample: S * C
    channels: int
    row: int
    chunk: int  # a multiple of row

    @property
    def chunks(self) -> int:  # of a sample
        return -(-self.size // self.chunk)

    @property
    def tasks(self) -> int:
        return self.samples * self.chunks

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        return self.chunks, self.chunk, self.size, self.row

    def repeat(self, per_channel: np.ndarray | float) -> np.ndarray:
        """(N, C), (C,) or a number -> (N, row) float32."""
        full = np.broadcast_to(per_channel, (self.samples, self.channels)).astype(np.float32, order="C")
        return np.tile(full, (1, self.row // self.channels))

    def partial(self) -> tuple[np.ndarray, np.ndarray]:
        """Return zeros for two sums per task and row position."""
        first, second = np.zeros((2, self.samples, self.chunks, self.row), np.float32)
        return first, second

    def total(self, partial: np.ndarray) -> np.ndarray:
        """Return the sum per sample and channel, (N, C) float64."""
        rows = partial.sum(axis=1, dtype=np.float64)  # (N, row)
        return rows.reshape(self.samples, -1, self.channels).sum(axis=1)


def layout(samples: int, voxels: int, channels: int) -> Layout:
    step = math.lcm(channels, 16)
    row = step * -(-ROW // step)
    size = voxels * channels
    rows = -(-size // row)
    return Layout(samples, size, channels, row, row * max(1, min(ROWS, rows // CHUNKS)))


def channel_moments(volume: np.ndarray, cut: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance per sample and channel, (N, C) float64 each."""
    voxels = cut.size // cut.channels
    flat = volume.reshape(cut.samples, voxels, cut.channels)
    some = flat[:, :: max(1, voxels // 64)]
    if some.dtype == np.uint16:
        some = (some.astype(np.uint32) << 16).view(np.float32)
    # Squares are summed about a point near the mean, where they do not cancel.
    pivot = some.mean(axis=1, dtype=np.float64).astype(np.float32)  # (N, C)
    partial = cut.partial()
    moments(cut.tasks, volume, *cut.arguments, cut.repeat(pivot), *partial)
    offset, square = (cut.total(p) / voxels for p in partial)
    return pivot + offset, np.maximum(square - offset * offset, 0)


@numba.njit(error_model="numpy")
def span(a, task):  # type: ignore[no-untyped-def]
    """Return where a task begins and ends in the volume, and where its sample's vectors begin."""
    chunks, chunk, size, row = integer(a, 2), integer(a, 3), integer(a, 4), integer(a, 5)
    sample, start = task // chunks, task % chunks * chunk
    return sample * size + start, sample * size + min(size, start + chunk), sample * row


@kernel
def moments(a):  # type: ignore[no-untyped-def]
    """total = sum of x - pivot; square = sum of its square."""
    x, row, pivot, total, square = volume(a, 1), integer(a, 5), vector(a, 6), vector(a, 7), vector(a, 8)
    for task in tasks(a):
        (start, stop, vectors), sums = span(a, task), task * row
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                v = load(x, at + q) - pivot[vectors + q]
                total[sums + q] += v
                square[sums + q] += v * v


@kernel
def normalise_act(a):  # type: ignore[no-untyped-def]
    """y = act((x - mean) * scale + shift)"""
    x, row, y = volume(a, 1), integer(a, 5), volume(a, 6)
    mean, scale, shift, slope = vector(a, 7), vector(a, 8), vector(a, 9), number(a, 10)
    for task in tasks(a):
        start, stop, vectors = span(a, task)
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                v = (load(x, at + q) - mean[vectors + q]) * scale[vectors + q] + shift[vectors + q]
                store(y, at + q, v if v > 0 else slope * v)


@kernel
def normalise_add_act(a):  # type: ignore[no-untyped-def]
    """y = act((x - mean) * scale + shift + residual)"""
    x, row, y = volume(a, 1), integer(a, 5), volume(a, 6)
    mean, scale, shift, slope = vector(a, 7), vector(a, 8), vector(a, 9), number(a, 10)
    residual = volume(a, 11)
    for task in tasks(a):
        start, stop, vectors = span(a, task)
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                v = (load(x, at + q) - mean[vectors + q]) * scale[vectors + q] + shift[vectors + q]
                v += load(residual, at + q)
                store(y, at + q, v if v > 0 else slope * v)


@kernel
def gradient_sums(a):  # type: ignore[no-untyped-def]
    """With u = g * act': total = sum of u; dot = sum of u * (x - mean).

    The sign that act' needs is computed from x again, so that y need not be read.
    """
    x, row, g = volume(a, 1), integer(a, 5), volume(a, 6)
    mean, scale, shift, slope = vector(a, 7), vector(a, 8), vector(a, 9), number(a, 10)
    total, dot = vector(a, 11), vector(a, 12)
    for task in tasks(a):
        (start, stop, vectors), sums = span(a, task), task * row
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                v, u = load(x, at + q) - mean[vectors + q], load(g, at + q)
                u = u if v * scale[vectors + q] + shift[vectors + q] > 0 else slope * u
                total[sums + q] += u
                dot[sums + q] += u * v


@kernel
def gradient_input(a):  # type: ignore[no-untyped-def]
    """dx = u * by_u + (x - mean) * by_x + constant, with u = g * act'"""
    x, row, g = volume(a, 1), integer(a, 5), volume(a, 6)
    mean, scale, shift, slope = vector(a, 7), vector(a, 8), vector(a, 9), number(a, 10)
    by_u, by_x, constant, dx = vector(a, 11), vector(a, 12), vector(a, 13), volume(a, 14)
    for task in tasks(a):
        start, stop, vectors = span(a, task)
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                v, u = load(x, at + q) - mean[vectors + q], load(g, at + q)
                u = u if v * scale[vectors + q] + shift[vectors + q] > 0 else slope * u
                store(dx, at + q, u * by_u[vectors + q] + v * by_x[vectors + q] + constant[vectors + q])


@kernel
def gradient_residual(a):  # type: ignore[no-untyped-def]
    """dr = g * act', the residual's gradient, and `gradient_sums`' sums with u = dr.

    y has the sign that act' needs.
    """
    x, row, y, g, dr = volume(a, 1), integer(a, 5), volume(a, 6), volume(a, 7), volume(a, 8)
    mean, slope, total, dot = vector(a, 9), number(a, 10), vector(a, 11), vector(a, 12)
    for task in tasks(a):
        (start, stop, vectors), sums = span(a, task), task * row
        for at in range(start, stop, row):
            for q in range(min(row, stop - at)):
                u = load(g, at + q)
                u = u if load(y, at + q) > 0 else slope * u
                store(dr, at + q, u)
                total[sums + q] += u
                dot[sums + q] += u * (load(x, at + q) - mean[vectors + q])
