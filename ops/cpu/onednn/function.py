"""oneDNN's convolutions as MLX functions with gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import mlx.core as mx
import numpy as np

from ops.convolution.geometry import Geometry
from ops.cpu.arrays import empty, view
from ops.cpu.onednn import convolution
from ops.cpu.onednn.primitives import runtime


def convolve(
    g: Geometry, x: mx.array, weight: mx.array, bias: mx.array | None, input_grad: bool, weight_grad: bool
) -> mx.array:
    """Run the convolution whose shapes `g` holds, differentiable in bias and, if asked for, x and weight.

    x is float32 or bfloat16, and y has its dtype; bfloat16 is computed in float32 where the CPU has no such
    arithmetic. Weight and bias are cast to float32. Raises RuntimeError inside mx.compile and mx.vmap.
    """
    dtype = x.dtype
    if dtype == mx.bfloat16 and not runtime().native_bfloat16:
        x = x.astype(mx.float32)
    g = replace(g, bias=bias is not None, bfloat16=x.dtype == mx.bfloat16)
    parameters = [p.astype(mx.float32) for p in (weight, bias) if p is not None]
    return _function(g, input_grad, weight_grad)(x, *parameters).astype(dtype)


def _function(g: Geometry, input_grad: bool, weight_grad: bool) -> Callable[..., mx.array]:
    @mx.custom_function
    def function(x: mx.array, weight: mx.array, *bias: mx.array) -> mx.array:
        y, target = empty(g.y_shape, x.dtype)
        convolution.forward(g, view(x), view(weight), view(bias[0]) if bias else None, target)
        return y

    @function.vjp
    def gradients(primals: tuple[mx.array, ...], dy: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        x, weight, *bias = primals
        cotangent = view(dy)
        if weight_grad:
            dweight, dweight_target = empty(g.weight_shape, mx.float32)
            convolution.backward_weights(g, view(x), cotangent, dweight_target)
        else:
            dweight = mx.zeros(g.weight_shape)  # lazy: never evaluated
        if input_grad:
            dx, dx_target = empty(g.x_shape, x.dtype)
            convolution.backward_data(g, cotangent, view(weight), dx_target)
        else:
            dx = mx.zeros(g.x_shape, x.dtype)
        return (dx, dweight, *(mx.array(_sum_voxels(cotangent)) for _ in bias))

    return cast(Callable[..., mx.array], function)


def _sum_voxels(dy: np.ndarray) -> np.ndarray:
    """Return the sum over all but the last axis, float32. oneDNN's own float32 sum loses four digits."""
    from ops.cpu import norm_kernels  # loads Numba

    cut = norm_kernels.layout(1, dy.size // dy.shape[-1], dy.shape[-1])
    partial = cut.partial()
    norm_kernels.moments(cut.tasks, dy, *cut.arguments, cut.repeat(0.0), *partial)
    return cut.total(partial[0])[0].astype(np.float32)
