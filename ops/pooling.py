"""Maximum and average pooling."""

import functools
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ops import backend
from ops.arrays import empty, view
from ops.conv3d import Triple, triple


def max_pool3d(
    x: mx.array, kernel: int | Triple, stride: int | Triple | None = None, padding: int | Triple = 0
) -> mx.array:
    """Return the maximum over each window of x (N, D, H, W, C), in x's dtype.

    stride: the kernel's size unless given. Padding counts as minus infinity. Where a window has its maximum
    in several places they share the gradient evenly, as in `mlx.nn.MaxPool3d`.

    Raises ValueError for windows that do not fit into x.
    """
    window = _window("max_pool3d", x, kernel, stride, padding)
    if _is_native(x):
        return _cpu_max(*window)(x)
    return nn.MaxPool3d(*window)(x)


def avg_pool3d(
    x: mx.array, kernel: int | Triple, stride: int | Triple | None = None, padding: int | Triple = 0
) -> mx.array:
    """Return the mean over each window of x (N, D, H, W, C), in x's dtype.

    stride: the kernel's size unless given. Padding counts as zeros, as in `mlx.nn.AvgPool3d`.

    Raises ValueError for windows that do not fit into x.
    """
    window = _window("avg_pool3d", x, kernel, stride, padding)
    if _is_native(x):
        return _cpu_average(tuple(x.shape[1:4]), *window)(x)
    return nn.AvgPool3d(*window)(x)


def _is_native(x: mx.array) -> bool:
    return backend.active() == "onednn" and x.dtype in (mx.float32, mx.bfloat16)


def _window(
    operator: str, x: mx.array, kernel: int | Triple, stride: int | Triple | None, padding: int | Triple
) -> tuple[Triple, Triple, Triple]:
    if x.ndim != 5:
        raise ValueError(f"{operator}: x must be (N, D, H, W, C), got {x.shape}")
    kernel, padding = triple(kernel), triple(padding)
    stride = kernel if stride is None else triple(stride)
    if min(*kernel, *stride) < 1 or min(padding) < 0:
        raise ValueError(
            f"{operator}: kernel {kernel}, stride {stride} must be positive, padding {padding} not negative"
        )
    if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"{operator}: padding {padding} must be at most half of the kernel {kernel}")
    if any(s + 2 * p < k for s, p, k in zip(x.shape[1:4], padding, kernel, strict=True)):
        raise ValueError(
            f"{operator}: a kernel of {kernel} does not fit into {tuple(x.shape[1:4])} padded by {padding}"
        )
    return kernel, stride, padding


def _sizes(size: Sequence[int], kernel: Triple, stride: Triple, padding: Triple) -> list[int]:
    return [(s + 2 * p - k) // t + 1 for s, k, t, p in zip(size, kernel, stride, padding, strict=True)]


@functools.lru_cache(256)
def _cpu_average(size: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Any:
    from ops.resample_kernels import linear_operator

    matrices = []
    for s, o, k, t, p in zip(size, _sizes(size, kernel, stride, padding), kernel, stride, padding, strict=True):
        offset = np.arange(s) - (np.arange(o) * t - p)[:, None]  # of a voxel from a window's start
        matrices.append(((offset >= 0) & (offset < k)) / k)
    return linear_operator(matrices)


@functools.lru_cache(256)
def _cpu_max(kernel: Triple, stride: Triple, padding: Triple) -> Any:
    from ops import pool_kernels as kernels

    def geometry(x: mx.array) -> tuple[list[int], list[int]]:
        output = _sizes(x.shape[1:4], kernel, stride, padding)
        return output, [*x.shape[1:4], *output, x.shape[-1], *kernel, *stride, *padding]

    @mx.custom_function
    def operator(x: mx.array) -> mx.array:
        n, _, _, w, c = x.shape
        output, numbers = geometry(x)
        y, out = empty((n, *output, c), x.dtype)
        scratch = np.empty((backend.threads(), (w + output[2]) * c), np.float32)
        kernels.max_pool(n * output[0] * output[1], view(x), out, scratch, *numbers)
        return y

    @operator.vjp
    def gradient(x: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        output, numbers = geometry(x)
        volume, maxima = view(x), view(y)
        shares = np.empty(y.shape, np.float32)
        kernels.max_pool_shares(n * output[0] * output[1], volume, maxima, view(cotangent), shares, *numbers)
        dx, out = empty(x.shape, x.dtype)
        scratch = np.empty((backend.threads(), w * c), np.float32)
        kernels.max_pool_gradient(n * d * h, volume, maxima, shares, out, scratch, *numbers)
        return dx

    return operator
