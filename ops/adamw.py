"""AdamW's update of one tensor, and the norm of all gradients: MLX's passes, or one pass each on the CPU."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ops import backend
from ops.cpu.arrays import empty, view, writable

Update = tuple[mx.array, mx.array, mx.array]


def adamw(
    parameter: mx.array,
    gradient: mx.array,
    m: mx.array,
    v: mx.array,
    start: mx.array | None = None,
    *,
    scale: mx.array,
    learning_rate: mx.array,
    step: mx.array,
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> Update:
    """Return the new parameter, m and v after update number `step` (from 1) by scale × gradient.

    All tensors have the parameter's shape; scale, learning_rate and step are scalars. Bias-corrected, with decoupled
    weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101), towards `start` where it is given, else towards 0.

    On the CPU m and v are overwritten, so that an update needs no memory but the new parameter's: go on with those
    returned, and let no one else hold theirs.
    """
    tensors = (gradient, parameter, m, v) if start is None else (gradient, parameter, m, v, start)
    if backend.active() != "onednn" or not all(a.dtype == mx.float32 for a in tensors) or parameter.size == 0:
        learning_rate = learning_rate.astype(mx.float32)
        rate = learning_rate / (1 - betas[0] ** step)
        correction = mx.rsqrt(1 - betas[1] ** step)
        gradient = gradient * scale
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * mx.square(gradient)
        pull = parameter if start is None else parameter - start
        parameter = parameter - learning_rate * decay * pull - rate * m / (mx.sqrt(v) * correction + eps)
        return parameter, m, v
    from ops.cpu.adamw_kernels import NUMBERS, update

    factor, lr, t = (float(a.item()) for a in (scale, learning_rate, step))  # type: ignore[arg-type]
    (b1, b2), share = betas, lr * decay
    p, goal = view(parameter), view(parameter if start is None else start)
    new, target = empty(parameter.shape, mx.float32)
    update(
        -(-parameter.size // NUMBERS),
        *(view(gradient), p, goal, writable(m), writable(v), target, parameter.size),
        *(factor, b1, 1 - b1, b2, 1 - b2, 1 - share, 0.0 if start is None else share),
        *(lr / (1 - b1**t), (1 - b2**t) ** -0.5, eps),
    )
    return new, m, v


def global_norm(arrays: Sequence[mx.array]) -> mx.array:
    """Return the L2 norm of all arrays together, float32; on the CPU summed in float64."""
    if backend.active() != "onednn" or not all(a.dtype == mx.float32 for a in arrays):
        return mx.sqrt(sum((mx.square(a.astype(mx.float32)).sum() for a in arrays), mx.array(0.0)))
    from ops.cpu.adamw_kernels import NUMBERS, squares

    total = 0.0
    for a in arrays:
        if a.size > 0:
            partial = np.empty(-(-a.size // NUMBERS), np.float64)
            squares(len(partial), view(a), partial, a.size)
            total += float(partial.sum())
    return mx.array(np.sqrt(total), mx.float32)


def move_towards(array: mx.array, goal: mx.array, share: mx.array) -> mx.array:
    """Return array + share × (goal - array), `share` a scalar: one step of a moving average."""
    if backend.active() != "onednn" or not array.dtype == goal.dtype == mx.float32 or array.size == 0:
        return array + share * (goal - array)
    from ops.cpu.adamw_kernels import NUMBERS, blend

    new, target = empty(array.shape, mx.float32)
    tasks = -(-array.size // NUMBERS)
    blend(tasks, view(array), view(goal), target, array.size, float(share.item()))  # type: ignore[arg-type]
    return new
