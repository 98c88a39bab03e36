"""Convolutions and their gradients in plain MLX, without unfolding the input. `ops/convolution/rules.py` chooses.

A layer's gradients are computed in this order: bias, weight, input. Without that MLX computes the weights' gradients
of all layers last, and keeps what they need until then.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from ops.convolution import rules
from ops.convolution.geometry import Geometry
from ops.convolution.rules import Forms

Function = Callable[..., mx.array]


def convolve(
    g: Geometry,
    forward: Function,
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    input_grad: bool,
    weight_grad: bool,
) -> mx.array:
    """Run the convolution whose shapes `g` holds, differentiable in bias and, if asked for, x and weight.

    forward(x, weight) is MLX's own. The result has x's dtype, each gradient that of its array. Asking for x's gradient
    computes the weight's too, unless weight_grad is False.
    """
    forms = rules.choose(g, x.dtype.size, rules.device())
    parameters = [p for p in (weight, bias) if p is not None]
    return _function(g, forms, forward, input_grad, weight_grad)(x, *parameters)


def _function(g: Geometry, forms: Forms, forward: Function, input_grad: bool, weight_grad: bool) -> Function:
    @mx.custom_function
    def function(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
        w = weight.astype(x.dtype)
        if forms.forward == "tiles":
            y = _spread(x, w)
        elif forms.forward == "product":
            d, h, v = g.stride
            y = (x if d * h * v == 1 else x[:, ::d, ::h, ::v]) @ w.reshape(w.shape[0], -1).T
        else:
            y = forward(x, w)
        return y + bias[0].astype(x.dtype) if bias else y

    @function.vjp
    def gradients(primals: tuple[mx.array, ...], dy: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        x, weight, *bias = primals
        w = weight.astype(x.dtype)
        # MLX sums bfloat16 in bfloat16
        dbias = [dy.astype(mx.float32).sum((0, 1, 2, 3)).astype(b.dtype) for b in bias]
        dweight, dx = mx.zeros_like(weight), mx.zeros(g.x_shape, x.dtype)  # lazy: never evaluated where off
        if weight_grad and dbias:
            dy = mx.depends([dy], dbias)[0]
        if forms.weight_gradient == "tiles":
            dy = _gather(dy, g.stride)  # (N, D, H, W, kernel × O)
        if weight_grad:
            dweight = _weight_gradient(g, forms, forward, x, dy, w).astype(weight.dtype)
            dy = mx.depends([dy], [dweight])[0]
        if input_grad:
            dx = _input_gradient(g, forms, forward, x, dy, w)
        return (dx, dweight, *dbias)

    return cast(Function, function)


def _weight_gradient(g: Geometry, forms: Forms, forward: Function, x: mx.array, dy: mx.array, w: mx.array) -> mx.array:
    if forms.weight_gradient == "tiles":
        o, *kernel, i = g.weight_shape
        return (dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, i)).reshape(*kernel, o, i).transpose(3, 0, 1, 2, 4)
    if forms.weight_gradient == "rows":
        return by_rows(g, x, dy)
    if forms.weight_gradient == "cudnn":
        return by_cudnn(g, x, dy)
    if g.operator == "conv_transpose3d":
        return mx.vjp(lambda w: forward(x, w), [w], [dy])[1][0]
    return by_unfolding(g, x, dy, w)


def _input_gradient(g: Geometry, forms: Forms, forward: Function, x: mx.array, dy: mx.array, w: mx.array) -> mx.array:
    if forms.input_gradient == "tiles":
        return dy @ _matrix(w)
    if forms.input_gradient == "phases":
        return by_phases(g, dy, w)
    return mx.vjp(lambda x: forward(x, w), [x], [dy])[1][0]


def _matrix(w: mx.array) -> mx.array:
    """Return (O, kD, kH, kW, I) as (kD kH kW O, I): a tile's channels are adjacent."""
    return w.transpose(1, 2, 3, 0, 4).reshape(-1, w.shape[-1])


def _spread(x: mx.array, w: mx.array) -> mx.array:
    """Return a transposed convolution with kernel = stride: a matrix product makes a tile of y of each voxel."""
    n, d, h, v, _ = x.shape
    o, kd, kh, kw, _ = w.shape
    y = (x @ _matrix(w).T).reshape(n, d, h, v, kd, kh, kw, o)
    return y.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, d * kd, h * kh, v * kw, o)


def _gather(y: mx.array, kernel: Sequence[int]) -> mx.array:
    """(N, D kD, H kH, W kW, O) to (N, D, H, W, kD kH kW O): the tiles that `_spread` puts side by side."""
    n, *size, o = y.shape
    (d, kd), (h, kh), (w, kw) = ((s // k, k) for s, k in zip(size, kernel, strict=True))
    return y.reshape(n, d, kd, h, kh, w, kw, o).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, d, h, w, -1)


def by_unfolding(g: Geometry, x: mx.array, dy: mx.array, w: mx.array) -> mx.array:
    """Return the weight gradient by MLX's own, in slabs whose unfolded input is small, one after the other."""
    unfold = rules.weight_unfold_bytes(g, x.dtype.size)
    depth, (stride, padding, dilation) = g.y_shape[1], (p[0] for p in (g.stride, g.padding, g.dilation))
    slabs = min(depth, math.ceil(unfold / rules.SMALL_UNFOLD_BYTES))
    total = mx.zeros(w.shape)
    for first, last in itertools.pairwise(depth * i // slabs for i in range(slabs + 1)):
        start, stop = first * stride - padding, (last - 1) * stride - padding + dilation * (w.shape[1] - 1) + 1
        low, high = max(0, -start), max(0, stop - x.shape[1])
        pads = (low, *g.padding[1:]), (high, *g.padding[1:])
        slab = x[:, start + low : stop - high]
        convolution = functools.partial(mx.conv_general, stride=g.stride, padding=pads, kernel_dilation=g.dilation)
        part = mx.vjp(lambda w, f=convolution, x=slab: f(x, w), [w], [dy[:, first:last]])[1][0].astype(mx.float32)
        total = total + part
        x, dy = mx.depends([x, dy], [total])
    return total


def by_cudnn(g: Geometry, x: mx.array, dy: mx.array) -> mx.array:
    """Return the weight gradient as the convolution of x by dy, batch and channels exchanged.

    For it MLX calls cuDNN's `wgrad`.
    """
    ends = [
        (o - 1) * s + 1 + d * (k - 1) - size - p
        for size, o, k, s, p, d in zip(
            g.x_shape[1:4], g.y_shape[1:4], g.weight_shape[1:4], g.stride, g.padding, g.dilation, strict=True
        )
    ]
    dw = mx.conv_general(
        x.swapaxes(0, -1),
        dy.swapaxes(0, -1),
        stride=g.dilation,
        padding=(list(g.padding), ends),
        kernel_dilation=g.stride,
    )
    return dw.swapaxes(0, -1)


def by_rows(g: Geometry, x: mx.array, dy: mx.array) -> mx.array:
    """Return the weight gradient as one matrix product per kernel position (tap), on views of rows of channels.

    x is padded and split into stride phases, dy padded with zeros to a phase's grid: flattened, a tap shifts one
    against the other by a constant. Rows that wrap round an edge meet dy's zeros. Separate products, not a batch:
    Metal splits the long sum over voxels only where the batch is one.
    """
    o, *kernel, channels = g.weight_shape
    grid = [
        y + d * (k - 1) // s for y, k, s, d in zip(g.y_shape[1:4], kernel, g.stride, g.dilation, strict=True)
    ]  # a phase's voxels
    rows = _pad(dy, [(0, q - y) for q, y in zip(grid, g.y_shape[1:4], strict=True)]).reshape(-1, o)
    phases: dict[tuple[int, ...], mx.array | None] = {}
    products = []
    for tap in itertools.product(*map(range, kernel)):
        at = [t * d for t, d in zip(tap, g.dilation, strict=True)]
        phase = tuple(a % s for a, s in zip(at, g.stride, strict=True))
        if phase not in phases:
            phases[phase] = _phase(g, x, phase, grid)
        shift = [a // s for a, s in zip(at, g.stride, strict=True)]
        r = (shift[0] * grid[1] + shift[1]) * grid[2] + shift[2]
        x_rows = phases[phase]
        products.append(mx.zeros((o, channels), x.dtype) if x_rows is None else rows[: len(rows) - r].T @ x_rows[r:])
    return mx.stack(products, 1).reshape(g.weight_shape)


def _phase(g: Geometry, x: mx.array, phase: Sequence[int], grid: Sequence[int]) -> mx.array | None:
    """Rows of channels of every stride-th voxel of the padded x, from `phase` on; None where it is all padding."""
    slices, pads = [], []
    for size, stride, padding, first, q in zip(g.x_shape[1:4], g.stride, g.padding, phase, grid, strict=True):
        before = max(0, -((first - padding) // stride))
        start = before * stride + first - padding
        count = min(q - before, -((start - size) // stride))
        if count < 1:
            return None
        slices.append(slice(start, start + (count - 1) * stride + 1, stride))
        pads.append((before, q - before - count))
    return _pad(x[(slice(None), *slices)], pads).reshape(-1, x.shape[-1])


def _pad(x: mx.array, pads: Sequence[tuple[int, int]]) -> mx.array:
    return mx.pad(x, [(0, 0), *pads, (0, 0)]) if any(map(any, pads)) else x


def by_phases(g: Geometry, dy: mx.array, w: mx.array) -> mx.array:
    """Return the input gradient as convolutions with stride 1 of dy, one for every stride-th voxel of x, interleaved.

    A voxel i of the padded x takes part in y's voxel j by the tap t with i = stride j + dilation t: those whose i
    has one remainder meet the same taps, which are a convolution's kernel.
    """
    phases = [[_taps(g, axis, first) for first in range(g.stride[axis])] for axis in range(3)]
    size = [-(-size // s) for size, s in zip(g.x_shape[1:4], g.stride, strict=True)]
    zero = mx.broadcast_to(mx.array(0, dy.dtype), (g.x_shape[0], *size, g.x_shape[4]))

    def interleave(chosen: tuple[_Taps | None, ...]) -> mx.array:
        axis = len(chosen)
        if axis < 3:
            parts = [interleave((*chosen, taps)) for taps in phases[axis]]
            dx = parts[0] if len(parts) == 1 else mx.stack(parts, axis + 2).flatten(axis + 1, axis + 2)
            return dx if dx.shape[axis + 1] == g.x_shape[axis + 1] else mx.split(dx, [g.x_shape[axis + 1]], axis + 1)[0]
        taps = [t for t in chosen if t is not None]
        if len(taps) < 3:
            return zero
        kernel = w[(slice(None), *(t.slice for t in taps))]  # (O, ..., I)
        if math.prod(kernel.shape[1:4]) == 1 and not any(t.low or t.high for t in taps):
            return dy @ kernel.reshape(kernel.shape[0], -1)
        # MLX 0.32 on Metal reads past dy where only the end of D is padded (docs/gpu.md): pad both, drop the surplus
        surplus = 1 - taps[0].low if taps[0].low <= 0 < taps[0].high else 0
        dx = mx.conv_general(
            dy,
            kernel.swapaxes(0, -1),
            padding=([taps[0].low + surplus, taps[1].low, taps[2].low], [t.high for t in taps]),
            kernel_dilation=[t.dilation for t in taps],
            flip=True,
        )
        return dx[:, surplus:]

    return interleave(())


@dataclass(frozen=True)
class _Taps:
    """Along one axis: the kernel's positions that meet a phase's voxels, and dy's padding for their convolution."""

    slice: slice
    dilation: int
    low: int
    high: int


def _taps(g: Geometry, axis: int, first: int) -> _Taps | None:
    """Return the taps of x's voxels first, first + stride, …; None if no tap meets them."""
    size, kernel, output = g.x_shape[axis + 1], g.weight_shape[axis + 1], g.y_shape[axis + 1]
    stride, dilation = g.stride[axis], g.dilation[axis]
    i = first + g.padding[axis]  # in the padded x
    tap = next((t for t in range(kernel) if (i - t * dilation) % stride == 0), None)
    if tap is None:
        return None
    step = stride // math.gcd(stride, dilation)
    between = dilation * step // stride  # of dy's voxels that two taps of this phase meet
    reach = between * (len(range(tap, kernel, step)) - 1)
    low = reach - (i - tap * dilation) // stride
    return _Taps(slice(tap, None, step), between, low, -(-size // stride) + reach - low - output)
