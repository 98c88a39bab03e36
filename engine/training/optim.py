"""Optimisers, learning-rate schedules and clipping."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Settings:
    """What parameters of one group share."""

    decay: float
    factor: float = 1.0  # of the learning rate
    to_start: bool = False  # decay towards the values at the start, rather than towards 0
    first_step: int = 0  # the run's step at which the first update comes


def build_optimizer(
    config: OptimConfig,
    total_steps: int,
    model: nn.Module | None = None,
    freezing: Freezing | None = None,
    loaded: Collection[str] = (),
) -> optim.Optimizer:
    """Return AdamW (with bias correction, as in the paper and in PyTorch) or SGD with Nesterov momentum.

    Weight decay is for kernels alone: norms' scales and shifts and all biases, the one-dimensional
    parameters, are left out of it, as is usual for AdamW. AdamW's decay is decoupled (Loshchilov and Hutter
    2019, arXiv:1711.05101), SGD's is the L2 penalty.

    model: is needed where the config names parameters of it.
    freezing: what is thawed later has its schedule from there on, and moments and bias correction of its own.
    loaded: names of the parameters that were not drawn; `optim.decay_to_start` leads their kernels back to what they
        are when the optimiser meets them (L2-SP: Li et al. 2018, arXiv:1802.01483), in place of the weight decay.

    Raises ValueError for patterns that match nothing, and where what is frozen would be thawed after the end.
    """
    schedule = build_schedule(config, total_steps)
    if freezing is not None and total_steps <= freezing.thaw_at_step < math.inf:
        raise ValueError(
            f"freeze.thaw_at_step={freezing.thaw_at_step} must be below the run's {total_steps} steps; "
            "null freezes to the end"
        )
    kind = _AdamW if config.name == "adamw" else _SGD
    usual = list(dict.fromkeys([Settings(config.weight_decay), Settings(0.0)]))
    assert model is not None or not (config.rate_factors or config.decay_to_start)
    special = {} if model is None else _special_settings(config, model, freezing or Freezing(model), loaded)
    groups = list(dict.fromkeys([*usual, *special.values()]))
    if len(groups) == 1:
        return kind(config, groups[0], schedule)

    def settings_of(name: str, array: mx.array) -> Settings:
        return special.get(name) or usual[0 if array.ndim > 1 else -1]

    filters = [lambda name, array, group=group: settings_of(name, array) == group for group in groups[:-1]]
    return optim.MultiOptimizer([kind(config, group, schedule) for group in groups], filters)


def _special_settings(
    config: OptimConfig, model: nn.Module, freezing: Freezing, loaded: Collection[str]
) -> dict[str, Settings]:
    """Those of parameters that are treated in another way than usual, by name, in the model's order."""
    parameters = dict(tree_flatten(model.trainable_parameters()))
    factors: dict[str, float] = {}
    for pattern, factor in config.rate_factors.items():
        factors |= dict.fromkeys(matching(pattern, parameters, "optim.rate_factors"), factor)
    special = {}
    thaws = math.isfinite(freezing.thaw_at_step)
    for name, array in parameters.items():
        if name in freezing.names and not thaws:
            continue
        is_kernel = array.ndim > 1
        decay, to_start = (config.weight_decay if is_kernel else 0.0), False
        if config.decay_to_start is not None and is_kernel and name in loaded:
            decay, to_start = config.decay_to_start, True
        first_step = int(freezing.thaw_at_step) if name in freezing.names else 0
        settings = Settings(decay, factors.get(name, 1.0), to_start, first_step)
        if settings != Settings(config.weight_decay if is_kernel else 0.0):
            special[name] = settings
    return special


class _Group(optim.Optimizer):
    """What the optimisers below add to MLX's: the settings of a group."""

    settings: Settings

    def init_single(self, parameter: mx.array, state: dict[str, mx.array]) -> None:
        super().init_single(parameter, state)
        if self.settings.to_start:
            state["start"] = parameter

    def apply_gradients(self, gradients: Any, parameters: Any) -> Any:
        """As MLX's, except that steps are not counted while the group is frozen."""
        is_frozen = self.settings.first_step > 0 and not tree_flatten(gradients)
        return {} if is_frozen else super().apply_gradients(gradients, parameters)

    def advance(self) -> None:
        """Set the learning rate, and count a step."""
        super().apply_gradients({}, {})


class _AdamW(_Group, optim.AdamW):
    def __init__(self, config: OptimConfig, settings: Settings, schedule: Schedule) -> None:
        self.settings = settings
        decay = 0.0 if settings.to_start else settings.decay
        rate = _rate(settings, schedule)
        super().__init__(rate, list(config.betas), weight_decay=decay, bias_correction=True)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if self.settings.to_start:
            share = self.learning_rate.astype(gradient.dtype) * self.settings.decay
            parameter = parameter - share * (parameter - state["start"])
        return super().apply_single(gradient, parameter, state)


class _SGD(_Group, optim.SGD):
    def __init__(self, config: OptimConfig, settings: Settings, schedule: Schedule) -> None:
        self.settings = settings
        decay = 0.0 if settings.to_start else settings.decay
        super().__init__(_rate(settings, schedule), config.momentum, decay, nesterov=config.momentum > 0)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, mx.array]) -> mx.array:
        if self.settings.to_start:
            gradient = gradient + self.settings.decay * (parameter - state["start"])
        return super().apply_single(gradient, parameter, state)


def _rate(settings: Settings, schedule: Schedule) -> Schedule:
    """The schedule of a group, of its own steps."""
    return lambda step: settings.factor * schedule(step + settings.first_step)


def steps_done(optimizer: optim.Optimizer) -> int:
    """How many updates the optimiser made."""
    return int(_groups(optimizer)[0].step.item())


def global_norm(gradients: Any) -> mx.array:
    """Return the L2 norm of all gradients together, float32."""
    return ops.global_norm([g for _, g in tree_flatten(gradients)])


def clip_factor(norm: mx.array, limit: float | None) -> mx.array:
    """Return what to multiply gradients of the global norm `norm` by: below 1 where it is above `limit`."""
    return mx.array(1.0) if limit is None else mx.minimum(limit / (norm + 1e-6), 1.0)


def updates_in_place(optimizer: optim.Optimizer) -> bool:
    """Whether `update_in_place` knows the optimiser, and is faster here than the optimiser itself."""
    return ops.active() == "onednn" and all(type(group) is _AdamW for group in _groups(optimizer))


def update_in_place(
    optimizer: optim.Optimizer, model: nn.Module, gradients: dict[str, mx.array], factor: mx.array
) -> None:
    """Do as optimizer.update(model, factor × gradients), for flat gradients {name: array}, which are used up.

    One tensor follows the other, its gradient freed after use and its state overwritten: nothing but the parameter
    itself is there twice.
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
    """What a tree, or a module, holds under a dotted name."""
    for part in name.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree
