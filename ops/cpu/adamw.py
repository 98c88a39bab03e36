"""`ops.adamw` on a Linux CPU, by Numba: one pass each over all weights, all of them float32."""

from collections.abc import Sequence

import mlx.core as mx
import numba
import numpy as np

from ops.cpu.arrays import empty, view, writable
from ops.cpu.kernels import doubles, integer, kernel, number, share, volume

NUMBERS = 16384  # of a task
BLOCK = 1024  # of them stay in the first cache between two loops


def adamw(
    parameter: mx.array,
    gradient: mx.array,
    m: mx.array,
    v: mx.array,
    start: mx.array | None,
    numbers: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> mx.array:
    """Return the new parameter; m and v are overwritten. numbers: the gradient's scale, learning rate and step."""
    (factor, lr, t), (b1, b2) = numbers, betas
    pull = lr * decay
    p, goal = view(parameter), view(parameter if start is None else start)
    new, target = empty(parameter.shape, mx.float32)
    update(
        -(-parameter.size // NUMBERS),
        *(view(gradient), p, goal, writable(m), writable(v), target, parameter.size),
        *(factor, b1, 1 - b1, b2, 1 - b2, 1 - pull, 0.0 if start is None else pull),
        *(lr / (1 - b1**t), (1 - b2**t) ** -0.5, eps),
    )
    return new


def global_norm(arrays: Sequence[mx.array]) -> mx.array:
    """Return the L2 norm of all arrays together, summed in float64; none of them is empty."""
    total = 0.0
    for a in arrays:
        partial = np.empty(-(-a.size // NUMBERS), np.float64)
        squares(len(partial), view(a), partial, a.size)
        total += float(partial.sum())
    return mx.array(np.sqrt(total), mx.float32)


def move_towards(array: mx.array, goal: mx.array, weight: float) -> mx.array:
    """Return array + weight × (goal - array)."""
    new, target = empty(array.shape, mx.float32)
    blend(-(-array.size // NUMBERS), view(array), view(goal), target, array.size, weight)
    return new


@kernel
def update(a):  # type: ignore[no-untyped-def]
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g²;  p' = keep p + pull s - rate m / (correction sqrt(v) + eps)"""
    g, p, s, m, v, new = volume(a, 1), volume(a, 2), volume(a, 3), volume(a, 4), volume(a, 5), volume(a, 6)
    size, scale = integer(a, 7), number(a, 8)
    b1, rest1, b2, rest2 = number(a, 9), number(a, 10), number(a, 11), number(a, 12)
    keep, pull, rate, correction, eps = number(a, 13), number(a, 14), number(a, 15), number(a, 16), number(a, 17)
    first, last = share(a)
    end = min(size, last * NUMBERS)
    for block in range(first * NUMBERS, end, BLOCK):  # two loops: LLVM vectorises none that writes to three arrays
        for i in range(block, min(end, block + BLOCK)):
            gradient = scale * g[i]
            m[i] = b1 * m[i] + rest1 * gradient
            v[i] = b2 * v[i] + rest2 * (gradient * gradient)
        for i in range(block, min(end, block + BLOCK)):
            new[i] = keep * p[i] + pull * s[i] - rate * m[i] / (correction * np.sqrt(v[i]) + eps)


@kernel
def squares(a):  # type: ignore[no-untyped-def]
    """partial[task] = the sum of the task's squares: the same on each thread"""
    x, partial, size = volume(a, 1), doubles(a, 2), integer(a, 3)
    first, last = share(a)
    for task in range(first, last):
        partial[task] = _sum_of_squares(x, task * NUMBERS, min(size, (task + 1) * NUMBERS))


@numba.njit(fastmath={"contract", "nsz", "reassoc"})  # the order is free, so that it vectorises
def _sum_of_squares(x, first, last):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(first, last):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@kernel
def blend(a):  # type: ignore[no-untyped-def]
    """new = x + weight (y - x)"""
    x, y, new, size, weight = volume(a, 1), volume(a, 2), volume(a, 3), integer(a, 4), number(a, 5)
    first, last = share(a)
    for i in range(first * NUMBERS, min(size, last * NUMBERS)):
        new[i] = x[i] + weight * (y[i] - x[i])
