"""Copies between two volumes and one that holds the channels of both. Imported lazily (Numba)."""

from ops.cpu.kernels import integer, kernel, share, volume

VOXELS = 4096  # of a task


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
