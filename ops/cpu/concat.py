"""`ops.concat` on a Linux CPU, by Numba: copies between two volumes and one that holds the channels of both."""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx

from ops.cpu.arrays import empty, view
from ops.cpu.kernels import integer, kernel, share, volume

VOXELS = 4096  # of a task


def concat_channels(a: mx.array, b: mx.array) -> mx.array:
    """Return the channels of a, then those of b; both are float32 or bfloat16, and not empty."""
    return cast(mx.array, _operator(a, b))


@mx.custom_function
def _operator(a: mx.array, b: mx.array) -> mx.array:
    channels_a, channels_b = a.shape[-1], b.shape[-1]
    voxels = a.size // channels_a
    y, out = empty((*a.shape[:-1], channels_a + channels_b), a.dtype)
    join(-(-voxels // VOXELS), view(a), view(b), out, voxels, channels_a, channels_b)
    return y


@_operator.vjp
def _gradients(primals: Sequence[mx.array], g: mx.array, _: mx.array) -> Sequence[mx.array]:
    (a, out_a), (b, out_b) = (empty(p.shape, p.dtype) for p in primals)
    voxels = a.size // a.shape[-1]
    part(-(-voxels // VOXELS), view(g), out_a, out_b, voxels, a.shape[-1], b.shape[-1])
    return a, b


@kernel
def join(a):  # type: ignore[no-untyped-def]
    """y[v] = x[v], z[v]"""
    x, z, y = volume(a, 1), volume(a, 2), volume(a, 3)
    voxels, channels_x, channels_z = integer(a, 4), integer(a, 5), integer(a, 6)
    channels = channels_x + channels_z
    first, last = share(a)
    for v in range(first * VOXELS, min(voxels, last * VOXELS)):
        for q in range(channels_x):
            y[v * channels + q] = x[v * channels_x + q]
        for q in range(channels_z):
            y[v * channels + channels_x + q] = z[v * channels_z + q]


@kernel
def part(a):  # type: ignore[no-untyped-def]
    """x[v], z[v] = y[v]"""
    y, x, z = volume(a, 1), volume(a, 2), volume(a, 3)
    voxels, channels_x, channels_z = integer(a, 4), integer(a, 5), integer(a, 6)
    channels = channels_x + channels_z
    first, last = share(a)
    for v in range(first * VOXELS, min(voxels, last * VOXELS)):
        for q in range(channels_x):
            x[v * channels_x + q] = y[v * channels + q]
        for q in range(channels_z):
            z[v * channels_z + q] = y[v * channels + channels_x + q]
