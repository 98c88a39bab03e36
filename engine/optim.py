"""Optimisers, learning-rate schedules and clipping."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_reduce

from configs.train_schema import OptimConfig


def build_schedule(config: OptimConfig, total_steps: int) -> Callable[[mx.array], mx.array]:
    """Return the learning rate as a function of the optimiser step, an array that counts from 0.

    Linear warm-up, then constant, half a cosine, or poly (1 - t)^power down to learning_rate × final_factor.
    It is made of array operations alone, so that mx.compile does not freeze it.

    Raises ValueError where the warm-up leaves no step.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup >= total_steps:
        raise ValueError(f"optim.warmup_steps={warmup} must be below the run's {total_steps} steps")
    last = peak * config.final_factor

    def schedule(step: mx.array) -> mx.array:
        step = step.astype(mx.float32)
        t = mx.clip((step - warmup) / (total_steps - warmup), 0.0, 1.0)
        match config.schedule:
            case "constant":
                rate = mx.array(peak, dtype=mx.float32)
            case "cosine":
                rate = last + (peak - last) * 0.5 * (1 + mx.cos(math.pi * t))
            case "poly":
                rate = last + (peak - last) * mx.power(1 - t, config.poly_power)
        return mx.where(step < warmup, peak * (step + 1) / max(warmup, 1), rate)

    return schedule


def build_optimizer(config: OptimConfig, total_steps: int) -> optim.Optimizer:
    """Return AdamW (with bias correction, as in the paper and in PyTorch) or SGD with Nesterov momentum.

    Weight decay is for kernels alone: norms' scales and shifts and all biases, the one-dimensional
    parameters, are left out of it, as is usual for AdamW. AdamW's decay is decoupled (Loshchilov and Hutter
    2019, arXiv:1711.05101), SGD's is the L2 penalty.
    """
    schedule = build_schedule(config, total_steps)

    def build(weight_decay: float) -> optim.Optimizer:
        if config.name == "adamw":
            return optim.AdamW(schedule, list(config.betas), weight_decay=weight_decay, bias_correction=True)
        return optim.SGD(schedule, config.momentum, weight_decay, nesterov=config.momentum > 0)

    if config.weight_decay == 0:
        return build(0.0)
    return optim.MultiOptimizer([build(config.weight_decay), build(0.0)], [lambda _, w: w.ndim > 1])


def global_norm(gradients: Any) -> mx.array:
    """Return the L2 norm of all gradients together, float32."""
    squares = tree_reduce(lambda total, g: total + mx.square(g.astype(mx.float32)).sum(), gradients, mx.array(0.0))
    return mx.sqrt(squares)


def clip_by_norm(gradients: Any, norm: mx.array, limit: float) -> Any:
    """Return the gradients, scaled down where their global norm is above `limit`."""
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: g * factor, gradients)
