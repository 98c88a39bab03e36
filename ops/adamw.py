"""AdamW's update of one tensor, the norm of all gradients, and a step of a moving average."""

from collections.abc import Sequence

import mlx.core as mx

from ops import backend

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

    On the CPU m and v are overwritten, so that an update allocates only the new parameter: use the returned arrays,
    and keep no other reference to m and v.
    """
    tensors = (gradient, parameter, m, v) if start is None else (gradient, parameter, m, v, start)
    if _runs_on_onednn(*tensors):
        from ops.cpu import adamw as cpu

        numbers = [float(a.item()) for a in (scale, learning_rate, step)]  # type: ignore[arg-type]
        return cpu.adamw(parameter, gradient, m, v, start, numbers, betas, eps, decay), m, v
    learning_rate = learning_rate.astype(mx.float32)
    rate = learning_rate / (1 - betas[0] ** step)
    correction = mx.rsqrt(1 - betas[1] ** step)
    gradient = gradient * scale
    m = betas[0] * m + (1 - betas[0]) * gradient
    v = betas[1] * v + (1 - betas[1]) * mx.square(gradient)
    pull = parameter if start is None else parameter - start
    parameter = parameter - learning_rate * decay * pull - rate * m / (mx.sqrt(v) * correction + eps)
    return parameter, m, v


def global_norm(arrays: Sequence[mx.array]) -> mx.array:
    """Return the L2 norm of all arrays together, float32; on the CPU summed in float64."""
    arrays = [a for a in arrays if a.size > 0]
    if _runs_on_onednn(*arrays):
        from ops.cpu import adamw as cpu

        return cpu.global_norm(arrays)
    return mx.sqrt(sum((mx.square(a.astype(mx.float32)).sum() for a in arrays), mx.array(0.0)))


def move_towards(array: mx.array, goal: mx.array, share: mx.array) -> mx.array:
    """Return array + share × (goal - array), `share` a scalar: one step of a moving average."""
    if _runs_on_onednn(array, goal):
        from ops.cpu import adamw as cpu

        return cpu.move_towards(array, goal, float(share.item()))  # type: ignore[arg-type]
    return array + share * (goal - array)


def _runs_on_onednn(*arrays: mx.array) -> bool:
    return backend.runs_on_onednn() and all(a.dtype == mx.float32 and a.size > 0 for a in arrays)
