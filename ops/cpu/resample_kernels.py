"""Linear operators that treat D, H and W separately: upsampling, average pooling. Imported lazily (Numba).

Each is one small matrix per axis, whose rows have adjacent non-zeros, and so is its gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ops import backend
from ops.cpu.arrays import empty, view
from ops.cpu.kernels import indices, integer, kernel, load, store, tasks, thread_number, vector, volume


@dataclass(frozen=True)
class Taps:
    """A matrix (outputs, inputs) by its non-zeros: of row o, `count[o]` from column `first[o]` on."""

    inputs: int
    ranges: np.ndarray  # (outputs, 2) int64: first, count
    weights: np.ndarray  # (outputs, most taps) float32


def taps(matrix: np.ndarray) -> Taps:
    """matrix: (outputs, inputs), with no zeros between the non-zeros of a row."""
    used = matrix != 0
    count = used.sum(axis=1)
    first = np.where(count > 0, used.argmax(axis=1), 0)
    weights = np.zeros((len(matrix), max(1, int(count.max(initial=0)))), np.float32)
    for o, (start, number) in enumerate(zip(first, count, strict=True)):
        weights[o, :number] = matrix[o, start : start + number]
    return Taps(matrix.shape[1], np.ascontiguousarray(np.stack([first, count], axis=1), np.int64), weights)


def linear_operator(matrices: Sequence[np.ndarray]) -> mx.custom_function:
    """Return the function that applies a matrix (outputs, inputs) to each of D, H and W of x (N, D, H, W, C).

    x is float32 or bfloat16, sums are float32; the gradient applies the transposed matrices.
    """
    forward = [taps(m) for m in matrices]
    backward = [taps(m.T) for m in matrices]

    @mx.custom_function
    def operator(x: mx.array) -> mx.array:
        return resample(x, forward)

    @operator.vjp
    def gradient(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return resample(cotangent, backward)

    return operator


def resample(x: mx.array, axes: Sequence[Taps]) -> mx.array:
    n, c = x.shape[0], x.shape[-1]
    d, h, w = (len(axis.ranges) for axis in axes)
    y, out = empty((n, d, h, w, c), x.dtype)
    scratch = np.empty((backend.threads(), (axes[2].inputs + w) * c), np.float32)
    tables = [table for axis in axes for table in (axis.ranges, axis.weights, axis.weights.shape[1])]
    combine(n * d * h, view(x), out, scratch, *tables, *x.shape[1:4], d, h, w, c)
    return y


@kernel
def combine(a):  # type: ignore[no-untyped-def]
    """y = x with a matrix applied to each axis; a task is an output row."""
    x, y, scratch = volume(a, 1), volume(a, 2), vector(a, 3)
    ranges_d, weights_d, most_d = indices(a, 4), vector(a, 5), integer(a, 6)
    ranges_h, weights_h, most_h = indices(a, 7), vector(a, 8), integer(a, 9)
    ranges_w, weights_w, most_w = indices(a, 10), vector(a, 11), integer(a, 12)
    in_d, in_h, in_w = integer(a, 13), integer(a, 14), integer(a, 15)
    out_d, out_h, out_w, c = integer(a, 16), integer(a, 17), integer(a, 18), integer(a, 19)
    row = thread_number() * (in_w + out_w) * c  # one input row's width, then one output row's
    total = row + in_w * c
    for task in tasks(a):
        n, d, h = task // (out_d * out_h), task // out_h % out_d, task % out_h
        for q in range((in_w + out_w) * c):
            scratch[row + q] = 0
        for i in range(ranges_d[2 * d + 1]):
            for j in range(ranges_h[2 * h + 1]):
                weight = weights_d[d * most_d + i] * weights_h[h * most_h + j]
                at = ((n * in_d + ranges_d[2 * d] + i) * in_h + ranges_h[2 * h] + j) * in_w * c
                for q in range(in_w * c):
                    scratch[row + q] += weight * load(x, at + q)
        for o in range(out_w):
            for k in range(ranges_w[2 * o + 1]):
                weight = weights_w[o * most_w + k]
                source, target = row + (ranges_w[2 * o] + k) * c, total + o * c
                for q in range(c):
                    scratch[target + q] += weight * scratch[source + q]
        for q in range(out_w * c):
            store(y, task * out_w * c + q, scratch[total + q])
