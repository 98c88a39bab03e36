"""Optimisers, learning-rate schedules and clipping."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

import ops
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
    return ops.global_norm([g for _, g in tree_flatten(gradients)])


def clip_factor(norm: mx.array, limit: float | None) -> mx.array:
    """Return what to multiply gradients of the global norm `norm` by: below 1 where it is above `limit`."""
    return mx.array(1.0) if limit is None else mx.minimum(limit / (norm + 1e-6), 1.0)


def updates_in_place(optimizer: optim.Optimizer) -> bool:
    """Whether `update_in_place` knows the optimiser, and is faster here than the optimiser itself."""
    return ops.active() == "onednn" and all(type(group) is optim.AdamW for group in _groups(optimizer))


def update_in_place(
    optimizer: optim.Optimizer, model: nn.Module, gradients: dict[str, mx.array], factor: mx.array
) -> None:
    """Do as optimizer.update(model, factor × gradients), for flat gradients {name: array}, which are used up.

    One tensor follows the other, its gradient freed after use and its state overwritten: nothing but the parameter
    itself is there twice.
    """
    for number, group in enumerate(_groups(optimizer)):
        group.apply_gradients({}, {})  # the schedules' new values, and one step more
        for name in [name for name, g in gradients.items() if _group_of(optimizer, name, g) == number]:
            state = _at(group.state, name)
            parameter, state["m"], state["v"] = ops.adamw(
                _at(model, name),
                gradients.pop(name),
                state["m"],
                state["v"],
                scale=factor,
                learning_rate=group.learning_rate,
                step=group.step,
                betas=(group.betas[0], group.betas[1]),
                eps=group.eps,
                decay=group.weight_decay,
            )
            model.update(tree_unflatten([(name, parameter)]))


def _groups(optimizer: optim.Optimizer) -> list[Any]:
    return optimizer.optimizers if isinstance(optimizer, optim.MultiOptimizer) else [optimizer]


def _group_of(optimizer: optim.Optimizer, name: str, gradient: mx.array) -> int:
    filters = optimizer.filters if isinstance(optimizer, optim.MultiOptimizer) else [lambda _, g: True]
    return next(i for i, fits in enumerate(filters) if fits(name, gradient))


def _at(tree: Any, name: str) -> Any:
    """What a tree, or a module, holds under a dotted name."""
    for part in name.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
