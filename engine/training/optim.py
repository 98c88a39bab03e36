"""Optimisers, learning-rate schedules and clipping."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

import ops
from configs.schema.train import OptimConfig
from engine.training.weights.freezing import Freezing
from engine.training.weights.names import matching

Schedule = Callable[[mx.array], mx.array]


def build_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """Return the learning rate as a function of the optimiser step, an array that counts from 0.

    Linear warm-up, then constant, half a cosine, or poly (1 - t)^power down to learning_rate × final_factor. It uses
    array operations only, so that mx.compile does not make it a constant.

    Raises ValueError where the warm-up leaves no further step.
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


@dataclass(frozen=True)
class Settings:
    """The settings that the parameters of one group share."""

    decay: float
    factor: float = 1.0  # of the learning rate
    to_start: bool = False  # decay towards the start values instead of 0
    first_step: int = 0  # the run's step of the first update


def build_optimizer(
    config: OptimConfig,
    total_steps: int,
    model: nn.Module | None = None,
    freezing: Freezing | None = None,
    loaded: Collection[str] = (),
) -> optim.Optimizer:
    """Return AdamW (with bias correction, as in the paper and in PyTorch) or SGD with Nesterov momentum.

    Only kernels have weight decay: norms' scales and shifts and all biases, the one-dimensional parameters, have none,
    as is usual for AdamW. AdamW's decay is decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101), SGD's is the L2
    penalty.

    model: needed where the config names parameters of it.
    freezing: parameters that are thawed later start the schedule there, with their own moments and bias correction.
    loaded: names of the parameters that do not begin as random numbers. With `optim.decay_to_start` their kernels decay
        towards their start values instead of 0 (L2-SP: Li et al. 2018, arXiv:1802.01483).

    Raises ValueError for patterns that match nothing, and for `freeze.thaw_at_step` after the end of the run.
    """
    schedule = build_schedule(config, total_steps)
    if freezing is not None and total_steps <= freezing.thaw_at_step < math.inf:
        raise ValueError(
            f"freeze.thaw_at_step={freezing.thaw_at_step} must be below the run's {total_steps} steps; "
            "null freezes to the end"
        )
    usual = list(dict.fromkeys([Settings(config.weight_decay), Settings(0.0)]))
    assert model is not None or not (config.rate_factors or config.decay_to_start)
    special = {} if model is None else _special_settings(config, model, freezing or Freezing(model), loaded)
    groups = list(dict.fromkeys([*usual, *special.values()]))

    def build(settings: Settings) -> optim.Optimizer:
        if config.name == "adamw":
            return _AdamW(settings, schedule, betas=list(config.betas), bias_correction=True)
        return _SGD(settings, schedule, momentum=config.momentum, nesterov=config.momentum > 0)

    if len(groups) == 1:
        return build(groups[0])

    def settings_of(name: str, array: mx.array) -> Settings:
        return special.get(name) or usual[0 if array.ndim > 1 else -1]

    filters = [lambda name, array, group=group: settings_of(name, array) == group for group in groups[:-1]]
    return optim.MultiOptimizer([build(group) for group in groups], filters)


def _special_settings(
    config: OptimConfig, model: nn.Module, freezing: Freezing, loaded: Collection[str]
) -> dict[str, Settings]:
    """Return the settings of parameters that differ from the usual ones, by name, in the model's order."""
    parameters = dict(tree_flatten(model.trainable_parameters()))
    factors: dict[str, float] = {}
    for pattern, factor in config.rate_factors.items():
        factors |= dict.fromkeys(matching(pattern, parameters, "optim.rate_factors"), factor)
    special = {}
    for name, array in parameters.items():
        is_late = name in freezing.names
        if is_late and math.isinf(freezing.thaw_at_step):
            continue
        usual = settings = Settings(config.weight_decay if array.ndim > 1 else 0.0)
        if config.decay_to_start is not None and array.ndim > 1 and name in loaded:
            settings = Settings(config.decay_to_start, to_start=True)
        first_step = int(freezing.thaw_at_step) if is_late else 0
        settings = replace(settings, factor=factors.get(name, 1.0), first_step=first_step)
        if settings != usual:
            special[name] = settings
    return special


class _Group(optim.Optimizer):
    """The optimiser of one group: MLX's, with the group's settings."""

    def __init__(self, settings: Settings, schedule: Schedule, **arguments: Any) -> None:
        self.settings = settings
        super().__init__(
            learning_rate=lambda step: settings.factor * schedule(step + settings.first_step),
            weight_decay=0.0 if settings.to_start else settings.decay,
            **arguments,
        )

    def init_single(self, parameter: mx.array, state: dict[str, mx.array]) -> None:
        super().init_single(parameter, state)
        if self.settings.to_start:
            state["start"] = parameter

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """Do as MLX's, but count no steps while the group is frozen."""
        is_frozen = self.settings.first_step > 0 and not tree_flatten(gradients)
        return {} if is_frozen else super().apply_gradients(gradients, parameters)

    def advance(self) -> None:
        """Set the learning rate, and count a step."""
        super().apply_gradients({}, {})


class _AdamW(_Group, optim.AdamW):
    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if self.settings.to_start:
            share = self.learning_rate.astype(gradient.dtype) * self.settings.decay
            parameter = parameter - share * (parameter - state["start"])
        return super().apply_single(gradient, parameter, state)


class _SGD(_Group, optim.SGD):
    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if self.settings.to_start:
            gradient = gradient + self.settings.decay * (parameter - state["start"])
        return super().apply_single(gradient, parameter, state)


def steps_done(optimizer: optim.Optimizer) -> int:
    """Return the number of updates that the optimiser made."""
    return int(_groups(optimizer)[0].step.item())


def global_norm(gradients: Any) -> mx.array:
    """Return the L2 norm of all gradients together, float32."""
    return ops.global_norm([g for _, g in tree_flatten(gradients)])


def clip_factor(norm: mx.array, limit: float | None) -> mx.array:
    """Return the factor for gradients of the global norm `norm`: limit / norm where that is below 1, otherwise 1."""
    return mx.array(1.0) if limit is None else mx.minimum(limit / (norm + 1e-6), 1.0)


def updates_in_place(optimizer: optim.Optimizer) -> bool:
    """Return whether `update_in_place` supports the optimiser, and is faster on this machine."""
    return ops.active() == "onednn" and all(type(group) is _AdamW for group in _groups(optimizer))


def update_in_place(
    optimizer: optim.Optimizer, model: nn.Module, gradients: dict[str, mx.array], factor: mx.array
) -> None:
    """Do as optimizer.update(model, factor × gradients), and empty the flat gradients {name: array}.

    Tensors are updated one by one; each gradient is freed after use and the state overwritten, so that only one
    parameter at a time is in memory twice.
    """
    groups = _groups(optimizer)
    members: list[list[str]] = [[] for _ in groups]
    for name in gradients:  # no name is bound to a gradient, which would keep it
        members[_group_of(optimizer, name, gradients[name])].append(name)
    for group, names in zip(groups, members, strict=True):
        if names or group.settings.first_step == 0:
            group.advance()
        for name in names:
            state = _at(group.state, name)
            parameter, state["m"], state["v"] = ops.adamw(
                _at(model, name),
                gradients.pop(name),
                state["m"],
                state["v"],
                state.get("start"),
                scale=factor,
                learning_rate=group.learning_rate,
                step=group.step,
                betas=(group.betas[0], group.betas[1]),
                eps=group.eps,
                decay=group.settings.decay,
            )
            model.update(tree_unflatten([(name, parameter)]))


def _groups(optimizer: optim.Optimizer) -> list[Any]:
    return optimizer.optimizers if isinstance(optimizer, optim.MultiOptimizer) else [optimizer]


def _group_of(optimizer: optim.Optimizer, name: str, gradient: mx.array) -> int:
    filters = optimizer.filters if isinstance(optimizer, optim.MultiOptimizer) else [lambda _, g: True]
    return next(i for i, fits in enumerate(filters) if fits(name, gradient))


def _at(tree: Any, name: str) -> Any:
    """Return the entry of a tree, or of a module, with this dotted name."""
    for part in name.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
