"""AdamW's update of one tensor in one pass. Imported lazily (Numba)."""

import numpy as np

from ops.kernels import integer, kernel, number, share, volume

NUMBERS = 16384  # of a task


@kernel
def update(a):  # type: ignore[no-untyped-def]
    """m' = b1 m + (1 - b1) g;  v' = b2 v + (1 - b2) g²;  p' = keep p - rate m' / (correction sqrt(v') + eps)"""
    g, p, m, v = volume(a, 1), volume(a, 2), volume(a, 3), volume(a, 4)
    new_p, new_m, new_v = volume(a, 5), volume(a, 6), volume(a, 7)
    size = integer(a, 8)
    b1, rest1, b2, rest2 = number(a, 9), number(a, 10), number(a, 11), number(a, 12)
    keep, rate, correction, eps = number(a, 13), number(a, 14), number(a, 15), number(a, 16)
    first, last = share(a)
    for i in range(first * NUMBERS, min(size, last * NUMBERS)):
        mean = b1 * m[i] + rest1 * g[i]
        square = b2 * v[i] + rest2 * (g[i] * g[i])
        new_m[i] = mean
        new_v[i] = square
        new_p[i] = keep * p[i] - rate * mean / (correction * np.sqrt(square) + eps)
