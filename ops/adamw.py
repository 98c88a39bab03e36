"""AdamW's update of one tensor: MLX's dozen of passes over it, or one on the CPU."""

import mlx.core as mx

from ops import backend
from ops.arrays import empty, view

Update = tuple[mx.array, mx.array, mx.array]
SMALL = 4096  # numbers; below, MLX's passes cost less than leaving MLX


def adamw(
    parameter: mx.array,
    gradient: mx.array,
    m: mx.array,
    v: mx.array,
    *,
    learning_rate: mx.array,
    step: mx.array,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Update:
    """Return the new parameter, m and v, after step number `step` (from 1) with decoupled weight decay.

    All arrays have the parameter's shape; learning_rate and step are scalars. Bias-corrected, as in Loshchilov and
    Hutter (2019, arXiv:1711.05101) and in PyTorch.
    """
    rate = learning_rate.astype(mx.float32) / (1 - betas[0] ** step)
    correction = mx.rsqrt(1 - betas[1] ** step)
    keep = 1 - learning_rate.astype(mx.float32) * weight_decay
    arrays = (gradient, parameter, m, v)
    floats = all(a.dtype == mx.float32 for a in arrays)
    if backend.active() == "onednn" and floats and parameter.size >= SMALL:
        return _cpu(arrays, rate.item(), correction.item(), keep.item(), betas, eps)  # type: ignore[arg-type]
    m = betas[0] * m + (1 - betas[0]) * gradient
    v = betas[1] * v + (1 - betas[1]) * mx.square(gradient)
    return parameter * keep - rate * m / (mx.sqrt(v) * correction + eps), m, v


def _cpu(
    arrays: tuple[mx.array, ...],
    rate: float,
    correction: float,
    keep: float,
    betas: tuple[float, float],
    eps: float,
) -> Update:
    from ops.adamw_kernels import NUMBERS, update

    size = arrays[0].size
    p, m, v = (empty(arrays[1].shape, mx.float32) for _ in range(3))
    b1, b2 = betas
    constants = (b1, 1 - b1, b2, 1 - b2, keep, rate, correction, eps)
    update(-(-size // NUMBERS), *map(view, arrays), p[1], m[1], v[1], size, *map(float, constants))
    return p[0], m[0], v[0]
