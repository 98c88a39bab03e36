"""Maximum and average pooling.

MLX's own layers add the gradients of overlapping windows by a scatter, whose order is not fixed on a GPU. The plain
form here uses shifted slices instead.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ops import backend
from ops.convolution.geometry import Triple, triple


def max_pool3d(
    x: mx.array, kernel: int | Triple, stride: int | Triple | None = None, padding: int | Triple = 0
) -> mx.array:
    """Return the maximum over each window of x (N, D, H, W, C), in x's dtype.

    stride: the kernel's size unless given. Padding counts as minus infinity. Where a window has its maximum
    in several places they share the gradient evenly, as in `mlx.nn.MaxPool3d`.

    Raises ValueError for windows that do not fit into x.
    """
    window = _window("max_pool3d", x, kernel, stride, padding)
    if backend.runs_on_onednn(x):
        from ops.cpu import pooling as cpu

        return cpu.max_pool3d(*window)(x)
    return _plain_max(*window)(x)


def avg_pool3d(
    x: mx.array, kernel: int | Triple, stride: int | Triple | None = None, padding: int | Triple = 0
) -> mx.array:
    """Return the mean over each window of x (N, D, H, W, C), in x's dtype.

    stride: the kernel's size unless given. Padding counts as zeros, as in `mlx.nn.AvgPool3d`.

    Raises ValueError for windows that do not fit into x.
    """
    window = _window("avg_pool3d", x, kernel, stride, padding)
    if backend.runs_on_onednn(x):
        from ops.cpu import pooling as cpu

        return cpu.avg_pool3d(tuple(x.shape[1:4]), *window)(x)
    return _plain_average(*window)(x)


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


@functools.lru_cache(256)
def _plain_max(kernel: Triple, stride: Triple, padding: Triple) -> Any:
    @mx.custom_function
    def operator(x: mx.array) -> mx.array:
        return _reduce_windows(x, mx.maximum, -math.inf, kernel, stride, padding)

    @operator.vjp
    def gradient(x: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
        size, output, (reach, grid) = x.shape[1:4], y.shape[1:4], _grid(y, kernel, stride)
        ends = [g * s - p for g, s, p in zip(grid, stride, padding, strict=True)]
        inside = x[(slice(None), *(slice(min(n, end)) for n, end in zip(size, ends, strict=True)))]
        pads = [(p, max(0, end - n)) for p, n, end in zip(padding, size, ends, strict=True)]
        volume = _pad(inside, pads, math.nan)  # which equals no maximum

        def phase(first: Sequence[int]) -> mx.array:
            return volume[(slice(None), *(slice(f, None, s) for f, s in zip(first, stride, strict=True)))]

        count: mx.array | float = 0.0
        for tap in itertools.product(*map(range, kernel)):
            first = [t % s for t, s in zip(tap, stride, strict=True)]
            count = count + (_window_at(phase(first), [t // s for t, s in zip(tap, stride, strict=True)], output) == y)
        share = cotangent.astype(mx.float32) / mx.maximum(count, 1)
        around = [(r, r) for r in reach]
        maxima, share = _pad(y, around, math.nan), _pad(share, around, 0.0)

        def share_of(first: Sequence[int], at: list[int]) -> mx.array:
            return mx.where(phase(first) == _window_at(maxima, at, grid), _window_at(share, at, grid), 0.0)

        return _from_windows(x, y, share_of, kernel, stride, padding)

    return operator


@functools.lru_cache(256)
def _plain_average(kernel: Triple, stride: Triple, padding: Triple) -> Any:
    @mx.custom_function
    def operator(x: mx.array) -> mx.array:
        def add(a: mx.array, b: mx.array) -> mx.array:
            return a.astype(mx.float32) + b.astype(mx.float32)

        return (_reduce_windows(x, add, 0.0, kernel, stride, padding) / math.prod(kernel)).astype(x.dtype)

    @operator.vjp
    def gradient(x: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
        reach, grid = _grid(y, kernel, stride)
        share = _pad(cotangent.astype(mx.float32) / math.prod(kernel), [(r, r) for r in reach], 0.0)
        return _from_windows(x, y, lambda _, at: _window_at(share, at, grid), kernel, stride, padding)

    return operator


def _reduce_windows(
    x: mx.array, join: Callable[..., mx.array], outside: float, kernel: Triple, stride: Triple, padding: Triple
) -> mx.array:
    """Reduce each window of x, axis after axis; `outside` is the padding's value."""
    for axis, k, s, p in zip((3, 2, 1), kernel[::-1], stride[::-1], padding[::-1], strict=True):
        x = _pad(x, [(p, p) if i == axis else (0, 0) for i in (1, 2, 3)], outside)
        span = (x.shape[axis] - k) // s * s + 1
        x = functools.reduce(join, [x[(slice(None),) * axis + (slice(t, t + span, s),)] for t in range(k)])
    return x


def _grid(y: mx.array, kernel: Triple, stride: Triple) -> tuple[list[int], list[int]]:
    """Return, per axis, how many windows before it a window overlaps, and the length of all windows in strides."""
    reach = [(k - 1) // s for k, s in zip(kernel, stride, strict=True)]
    return reach, [o + r for o, r in zip(y.shape[1:4], reach, strict=True)]


def _from_windows(
    x: mx.array,
    y: mx.array,
    part: Callable[[Sequence[int], list[int]], mx.array],
    kernel: Triple,
    stride: Triple,
    padding: Triple,
) -> mx.array:
    """Return x's gradient. Voxels that are a stride apart belong to equally many windows: they make a phase.

    part(first, at): the contribution to the phase that begins at the padded voxel `first` of the windows that begin
    at `at` in the grid padded by the reach.
    """
    reach, grid = _grid(y, kernel, stride)
    phases = []
    for first in itertools.product(*map(range, stride)):
        shifts = [range((k - 1 - f) // s + 1) for k, f, s in zip(kernel, first, stride, strict=True)]
        places = [[r - q for r, q in zip(reach, shift, strict=True)] for shift in itertools.product(*shifts)]
        total = sum((part(first, at) for at in places), start=mx.zeros((1, 1, 1, 1, 1)))
        phases.append(mx.broadcast_to(total.astype(x.dtype), (len(x), *grid, x.shape[-1])))
    dx = mx.stack(phases).reshape(*stride, len(x), *grid, x.shape[-1]).transpose(3, 4, 0, 5, 1, 6, 2, 7)
    dx = dx.reshape(len(x), *(g * s for g, s in zip(grid, stride, strict=True)), x.shape[-1])
    missing = [(0, max(0, p + n - m)) for p, n, m in zip(padding, x.shape[1:4], dx.shape[1:4], strict=True)]
    return _window_at(_pad(dx, missing, 0.0), list(padding), x.shape[1:4])  # the last voxels may be in no window


def _window_at(x: mx.array, at: Sequence[int], size: Sequence[int]) -> mx.array:
    return x[(slice(None), *(slice(a, a + n) for a, n in zip(at, size, strict=True)))]


def _pad(x: mx.array, widths: Sequence[tuple[int, int]], value: float) -> mx.array:
    """Pad D, H and W of x (N, D, H, W, C) by the widths before and after."""
    return mx.pad(x, [(0, 0), *widths, (0, 0)], constant_values=value) if any(map(any, widths)) else x
