"""`ops.pooling` on a Linux CPU, by Numba."""

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numba
import numpy as np

from ops import backend
from ops.convolution.geometry import Triple
from ops.cpu.arrays import empty, view
from ops.cpu.kernels import integer, kernel, load, store, tasks, thread_number, vector, volume
from ops.cpu.resample_kernels import linear_operator


@functools.lru_cache(256)
def max_pool3d(window: Triple, stride: Triple, padding: Triple) -> Any:
    """Return the operator on x (N, D, H, W, C), float32 or bfloat16."""

    def geometry(x: mx.array) -> tuple[list[int], list[int]]:
        output = _sizes(x.shape[1:4], window, stride, padding)
        return output, [*x.shape[1:4], *output, *window, *stride, *padding, x.shape[-1]]

    @mx.custom_function
    def operator(x: mx.array) -> mx.array:
        n, _, _, w, c = x.shape
        output, numbers = geometry(x)
        y, out = empty((n, *output, c), x.dtype)
        scratch = np.empty((backend.threads(), (w + output[2]) * c), np.float32)
        max_pool(n * output[0] * output[1], view(x), *numbers, out, scratch)
        return y

    @operator.vjp
    def gradient(x: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        output, numbers = geometry(x)
        volume, maxima = view(x), view(y)
        shares = np.empty(y.shape, np.float32)
        max_pool_shares(n * output[0] * output[1], volume, *numbers, maxima, view(cotangent), shares)
        dx, out = empty(x.shape, x.dtype)
        scratch = np.empty((backend.threads(), w * c), np.float32)
        max_pool_gradient(n * d * h, volume, *numbers, maxima, shares, out, scratch)
        return dx

    return operator


@functools.lru_cache(256)
def avg_pool3d(size: Triple, window: Triple, stride: Triple, padding: Triple) -> Any:
    """Return the operator on x (N, D, H, W, C) of `size` (D, H, W), float32 or bfloat16."""
    matrices = []
    output = _sizes(size, window, stride, padding)
    for s, o, k, t, p in zip(size, output, window, stride, padding, strict=True):
        offset = np.arange(s) - (np.arange(o) * t - p)[:, None]  # of a voxel from a window's start
        matrices.append(((offset >= 0) & (offset < k)) / k)
    return linear_operator(matrices)


def _sizes(size: Sequence[int], window: Triple, stride: Triple, padding: Triple) -> list[int]:
    return [(s + 2 * p - k) // t + 1 for s, k, t, p in zip(size, window, stride, padding, strict=True)]


@numba.njit
def triple(a, i):  # type: ignore[no-untyped-def]
    """Return the arguments i, i + 1 and i + 2."""
    return integer(a, i), integer(a, i + 1), integer(a, i + 2)


@kernel
def max_pool(a):  # type: ignore[no-untyped-def]
    """y = the maximum over windows; a task is an output row. Windows are cut at the border."""
    x, y, scratch = volume(a, 1), volume(a, 18), vector(a, 19)
    (in_d, in_h, in_w), (out_d, out_h, out_w), (kernel_d, kernel_h, kernel_w) = triple(a, 2), triple(a, 5), triple(a, 8)
    (stride_d, stride_h, stride_w), (pad_d, pad_h, pad_w), c = triple(a, 11), triple(a, 14), integer(a, 17)
    row = thread_number() * (in_w + out_w) * c
    total = row + in_w * c
    for task in tasks(a):
        n, d, h = task // (out_d * out_h), task // out_h % out_d, task % out_h
        for q in range((in_w + out_w) * c):
            scratch[row + q] = -np.inf
        from_d, from_h = d * stride_d - pad_d, h * stride_h - pad_h
        for i in range(max(0, from_d), min(in_d, from_d + kernel_d)):
            for j in range(max(0, from_h), min(in_h, from_h + kernel_h)):
                at = ((n * in_d + i) * in_h + j) * in_w * c
                for q in range(in_w * c):
                    v, best = load(x, at + q), scratch[row + q]
                    scratch[row + q] = v if v > best or v != v else best  # NaN stays
        for o in range(out_w):
            from_w, target = o * stride_w - pad_w, total + o * c
            for k in range(max(0, from_w), min(in_w, from_w + kernel_w)):
                for q in range(c):
                    v, best = scratch[row + k * c + q], scratch[target + q]
                    scratch[target + q] = v if v > best or v != v else best
        for q in range(out_w * c):
            store(y, task * out_w * c + q, scratch[total + q])


@kernel
def max_pool_shares(a):  # type: ignore[no-untyped-def]
    """shares = g / the number of places in the window where the maximum stands, as MLX divides it."""
    x, y, g, shares = volume(a, 1), volume(a, 18), volume(a, 19), vector(a, 20)
    (in_d, in_h, in_w), (out_d, out_h, out_w), (kernel_d, kernel_h, kernel_w) = triple(a, 2), triple(a, 5), triple(a, 8)
    (stride_d, stride_h, stride_w), (pad_d, pad_h, pad_w), c = triple(a, 11), triple(a, 14), integer(a, 17)
    for task in tasks(a):
        n, d, h = task // (out_d * out_h), task // out_h % out_d, task % out_h
        start = task * out_w * c
        for q in range(out_w * c):
            shares[start + q] = 0
        from_d, from_h = d * stride_d - pad_d, h * stride_h - pad_h
        for i in range(max(0, from_d), min(in_d, from_d + kernel_d)):
            for j in range(max(0, from_h), min(in_h, from_h + kernel_h)):
                at = ((n * in_d + i) * in_h + j) * in_w * c
                for o in range(out_w):
                    from_w, target = o * stride_w - pad_w, start + o * c
                    for k in range(max(0, from_w), min(in_w, from_w + kernel_w)):
                        for q in range(c):
                            if load(x, at + k * c + q) == load(y, target + q):
                                shares[target + q] += 1
        for q in range(out_w * c):
            shares[start + q] = load(g, start + q) / max(shares[start + q], np.float32(1))


@kernel
def max_pool_gradient(a):  # type: ignore[no-untyped-def]
    """dx = the sum of the shares of the windows whose maximum stands there; a task is an input row."""
    x, y, shares, dx, scratch = volume(a, 1), volume(a, 18), vector(a, 19), volume(a, 20), vector(a, 21)
    (in_d, in_h, in_w), (out_d, out_h, out_w), (kernel_d, kernel_h, kernel_w) = triple(a, 2), triple(a, 5), triple(a, 8)
    (stride_d, stride_h, stride_w), (pad_d, pad_h, pad_w), c = triple(a, 11), triple(a, 14), integer(a, 17)
    row = thread_number() * in_w * c
    for task in tasks(a):
        n, d, h = task // (in_d * in_h), task // in_h % in_d, task % in_h
        start = task * in_w * c
        for q in range(in_w * c):
            scratch[row + q] = 0
        # Windows start at o * stride - pad and cover `kernel` voxels: those that cover this row.
        for i in range(max(0, -((kernel_d - 1 - d - pad_d) // stride_d)), min(out_d, (d + pad_d) // stride_d + 1)):
            for j in range(max(0, -((kernel_h - 1 - h - pad_h) // stride_h)), min(out_h, (h + pad_h) // stride_h + 1)):
                window = ((n * out_d + i) * out_h + j) * out_w * c
                for o in range(out_w):
                    from_w, source = o * stride_w - pad_w, window + o * c
                    for k in range(max(0, from_w), min(in_w, from_w + kernel_w)):
                        for q in range(c):
                            if load(x, start + k * c + q) == load(y, source + q):
                                scratch[row + k * c + q] += shares[source + q]
        for q in range(in_w * c):
            store(dx, start + q, scratch[row + q])
