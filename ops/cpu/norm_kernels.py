"""The passes of normalisation, activation and channel dropout over a volume. Imported lazily (Numba).

A volume is (N, S, C) in memory, S voxels. Kernels see each sample as one run of S * C numbers, cut into
rows of whole voxels, wide enough to vectorise, and chunks of rows, which are the tasks. Per-channel vectors
come repeated to a row's width. Chunks depend on the shape alone, so sums do not depend on the threads.
"""

import math
from dataclasses import dataclass

import numpy as np

from ops.cpu.kernels import integer, kernel, load, number, share, store, vector, volume

ROW = 256  # numbers at least: 16 AVX-512 registers
ROWS = 256  # at most in a chunk: float32 sums of so few terms lose nothing that matters
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

    def partial(self) -> np.ndarray:
        """Memory for two sums per task and row position."""
        return np.empty((self.samples, self.chunks, 2, self.row), np.float32)

    def total(self, partial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both sums per sample and channel, (N, C) float64."""
        rows = partial.sum(axis=1, dtype=np.float64)  # (N, 2, row)
        sums = rows.reshape(self.samples, 2, -1, self.channels).sum(axis=2)
        return sums[:, 0], sums[:, 1]


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
    moments(cut.tasks, volume, cut.repeat(pivot), partial, *cut.arguments)
    offset, square = (total / voxels for total in cut.total(partial))
    return pivot + offset, np.maximum(square - offset * offset, 0)


@kernel
def moments(a):  # type: ignore[no-untyped-def]
    """partial[..., 0, :] = sum of x - pivot; partial[..., 1, :] = sum of its square."""
    x, pivot, partial = volume(a, 1), vector(a, 2), vector(a, 3)
    chunks, chunk, size, row = integer(a, 4), integer(a, 5), integer(a, 6), integer(a, 7)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        total, square, vectors = task * 2 * row, (task * 2 + 1) * row, sample * row
        for q in range(2 * row):
            partial[total + q] = 0
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                v = load(x, at + q) - pivot[vectors + q]
                partial[total + q] += v
                partial[square + q] += v * v


@kernel
def normalise_act(a):  # type: ignore[no-untyped-def]
    """y = act((x - mean) * scale + shift)"""
    x, y = volume(a, 1), volume(a, 2)
    mean, scale, shift, slope = vector(a, 3), vector(a, 4), vector(a, 5), number(a, 6)
    chunks, chunk, size, row = integer(a, 7), integer(a, 8), integer(a, 9), integer(a, 10)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        vectors = sample * row
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                v = (load(x, at + q) - mean[vectors + q]) * scale[vectors + q] + shift[vectors + q]
                store(y, at + q, v if v > 0 else slope * v)


@kernel
def normalise_add_act(a):  # type: ignore[no-untyped-def]
    """y = act((x - mean) * scale + shift + residual)"""
    x, y, residual = volume(a, 1), volume(a, 2), volume(a, 3)
    mean, scale, shift, slope = vector(a, 4), vector(a, 5), vector(a, 6), number(a, 7)
    chunks, chunk, size, row = integer(a, 8), integer(a, 9), integer(a, 10), integer(a, 11)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        vectors = sample * row
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                v = (load(x, at + q) - mean[vectors + q]) * scale[vectors + q] + shift[vectors + q]
                v += load(residual, at + q)
                store(y, at + q, v if v > 0 else slope * v)


@kernel
def gradient_sums(a):  # type: ignore[no-untyped-def]
    """With u = g * act': partial[..., 0, :] = sum of u; partial[..., 1, :] = sum of u * (x - mean).

    The sign that act' needs is computed from x again, so that y need not be read.
    """
    x, g, partial = volume(a, 1), volume(a, 2), vector(a, 3)
    mean, scale, shift, slope = vector(a, 4), vector(a, 5), vector(a, 6), number(a, 7)
    chunks, chunk, size, row = integer(a, 8), integer(a, 9), integer(a, 10), integer(a, 11)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        total, dot, vectors = task * 2 * row, (task * 2 + 1) * row, sample * row
        for q in range(2 * row):
            partial[total + q] = 0
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                v, u = load(x, at + q) - mean[vectors + q], load(g, at + q)
                u = u if v * scale[vectors + q] + shift[vectors + q] > 0 else slope * u
                partial[total + q] += u
                partial[dot + q] += u * v


@kernel
def gradient_input(a):  # type: ignore[no-untyped-def]
    """dx = u * by_u + (x - mean) * by_x + constant, with u = g * act'"""
    x, g, dx = volume(a, 1), volume(a, 2), volume(a, 3)
    mean, scale, shift, slope = vector(a, 4), vector(a, 5), vector(a, 6), number(a, 7)
    by_u, by_x, constant = vector(a, 8), vector(a, 9), vector(a, 10)
    chunks, chunk, size, row = integer(a, 11), integer(a, 12), integer(a, 13), integer(a, 14)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        vectors = sample * row
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                v, u = load(x, at + q) - mean[vectors + q], load(g, at + q)
                u = u if v * scale[vectors + q] + shift[vectors + q] > 0 else slope * u
                store(dx, at + q, u * by_u[vectors + q] + v * by_x[vectors + q] + constant[vectors + q])


@kernel
def gradient_residual(a):  # type: ignore[no-untyped-def]
    """dr = g * act', the residual's gradient, and `gradient_sums`' sums with u = dr.

    y has the sign that act' needs.
    """
    x, y, g, dr, partial = volume(a, 1), volume(a, 2), volume(a, 3), volume(a, 4), vector(a, 5)
    mean, slope = vector(a, 6), number(a, 7)
    chunks, chunk, size, row = integer(a, 8), integer(a, 9), integer(a, 10), integer(a, 11)
    first, last = share(a)
    for task in range(first, last):
        sample, start = task // chunks, task % chunks * chunk
        stop = min(size, start + chunk)
        total, dot, vectors = task * 2 * row, (task * 2 + 1) * row, sample * row
        for q in range(2 * row):
            partial[total + q] = 0
        for begin in range(start, stop, row):
            at = sample * size + begin
            for q in range(min(row, stop - begin)):
                u = load(g, at + q)
                u = u if load(y, at + q) > 0 else slope * u
                store(dr, at + q, u)
                partial[total + q] += u
                partial[dot + q] += u * (load(x, at + q) - mean[vectors + q])
