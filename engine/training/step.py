"""One optimiser step: forward, loss, gradients, clipping, update, moving average of the weights."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from configs.schema.train import OptimConfig, TrainConfig
from engine.distributed.group import ALONE, Group, running_statistics
from engine.runs.checkpoints import check_same_tensors, read_tensors
from engine.runs.precision import settle
from engine.training.losses import Loss
from engine.training.mixup import Mixup
from engine.training.optim import clip_factor, global_norm, steps_done, update_in_place, updates_in_place
from engine.training.weights.ema import WeightAverage
from engine.training.weights.freezing import Freezing
from ops import backend, memory

Batch = Mapping[str, np.ndarray]
_log = logging.getLogger("mlx_volumes")

_SMALLER = "data.patch_size_voxels (of clips data.clip) or train.batch_size, or set model.args.recompute=true"


@dataclass(frozen=True)
class StepResult:
    """The result of one step, as Python numbers."""

    loss: float
    parts: dict[str, float]  # the loss's terms
    grad_norm: float  # before clipping
    learning_rate: float


class TrainStep:
    """Trains a model by one optimiser step a call; `tensors` and `load` hold all that a checkpoint of it needs.

    The forward and backward pass run in `train.precision`: the input is cast, and the layers follow it; weights,
    losses, norm statistics and optimiser state stay float32. On a GPU the step is compiled. In a compiled step a value
    that changes during a run must be an array in the model's or the optimiser's state.

    In a `group` each process gets its share of each batch. `loss` is that of all shares together, equal in all
    processes (see `build_loss`), so that the sum of their gradients is the gradient.

    Frozen parameters have no gradient and do not change; the optimiser's count of steps decides when they thaw.

    Raises ValueError where precision or compilation cannot run on this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optim.Optimizer,
        loss: Loss,
        train: TrainConfig,
        optim_config: OptimConfig,
        group: Group = ALONE,
        freezing: Freezing | None = None,
        seed: int = 0,
    ) -> None:
        """seed: of mixup, and in a group of all random numbers; otherwise the network draws from `mx.random`."""
        self.model = model
        self.optimizer = optimizer
        self.average = None if optim_config.ema_decay is None else WeightAverage(model, optim_config.ema_decay)
        self.compiled = should_compile(train.compile)
        if self.compiled and group.size > 1 and mx.default_device().type == mx.DeviceType.cpu:
            # In a process that has joined a ring MLX 0.32 never returns from the C++ compiler.
            raise ValueError(
                "train.compile=always: several processes cannot compile on the CPU; use train.compile=auto"
            )
        self._dtype = compute_dtype(train.precision)
        self._loss = loss
        self._group, self._seed = group, seed
        self._mixup = Mixup(train.mixup_alpha, seed, group.rank, group.size) if train.mixup_alpha > 0 else None
        self._clip_norm = optim_config.clip_norm
        self._gradients_of_model = nn.value_and_grad(model, self._forward)
        self.freezing = freezing or Freezing(model)
        self.freezing.set_step(math.inf)
        optimizer.init(model.trainable_parameters())  # with those that are thawed later
        self.freezing.set_step(0)
        self._bind()

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        """Update the model by the mean gradient of the batches, which have the same size.

        Each holds x (N, D, H, W, C) float32 and the loss's y. The model must be in training mode.
        """
        done = steps_done(self.optimizer)
        if self.freezing.set_step(done):
            self._bind()  # other parameters have gradients from here on
        self.freezing.hold_statistics()
        precision = str(self._dtype).removeprefix("mlx.core.")
        shape, count = batches[0]["x"].shape, f"{len(batches)} batches of " if len(batches) > 1 else ""
        self._group.seed_step(self._seed, done)
        with (
            self._group.waiting(f"the other processes' gradients in step {done + 1}"),
            memory.explained(f"a training step on {count}{shape} (N, D, H, W, C), {precision}", _SMALLER),
        ):
            total, total_parts, gradients = self._accumulate(batches)  # forward, loss, backward
            norm = self._update(gradients, mx.array(1 / len(batches)))  # clip, update
            # The compiled step waits for the device only here. Meanwhile mlx-data's threads make the next batches.
            memory.evaluate(total, total_parts, norm, self._state)
        return StepResult(
            loss=float(total) / len(batches),
            parts={name: float(value) / len(batches) for name, value in total_parts.items()},
            grad_norm=float(norm),
            learning_rate=float(self.optimizer.learning_rate),
        )

    def _accumulate(self, batches: Sequence[Batch]) -> tuple[mx.array, dict[str, mx.array], Any]:
        """Return the sums over the batches of the loss, of its terms and of the gradients."""
        total = mx.array(0.0)
        total_parts: dict[str, mx.array] = {}
        gradients: Any = None
        for batch in batches:
            (loss, parts), new = self._gradients(mx.array(batch["x"]), mx.array(batch["y"]))
            gradients = new if gradients is None else tree_map(mx.add, gradients, new)
            total = total + loss
            total_parts = {name: value + total_parts.get(name, 0.0) for name, value in parts.items()}
            if len(batches) > 1 or not self.compiled:
                # This frees the batch's activations; a compiled step does not wait for it.
                start = mx.async_eval if self.compiled else mx.eval
                start(gradients, total, total_parts, self._state)
        if self._mixup is not None:  # its weight differs between processes
            total, total_parts = self._group.mean((total, total_parts))
        return total, total_parts, gradients

    def _forward(self, x: mx.array, y: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        """Return the loss and its terms."""
        if self._mixup is None:
            return self._loss(self.model(x.astype(self._dtype)), y)
        x, partners, weight = self._mixup(x)
        logits = self.model(x.astype(self._dtype))
        (loss, parts), (other_loss, other_parts) = self._loss(logits, y), self._loss(logits, y[partners])
        blended = {name: weight * part + (1 - weight) * other_parts[name] for name, part in parts.items()}
        return weight * loss + (1 - weight) * other_loss, blended

    def _apply(self, gradients: Any, scale: mx.array) -> mx.array:
        """Sum the processes' gradients, clip, update weights and their average; return the norm before clipping."""
        if self._group.size > 1:
            held = self.freezing.held_statistics
            statistics = running_statistics(
                (name, a) for name, a in tree_flatten(self.model.parameters()) if name not in held
            )
            gradients, statistics = self._group.sum_gradients(gradients, statistics)
            self.model.update(tree_unflatten(list(statistics.items())))
        norm = global_norm(gradients) * scale
        factor = scale * clip_factor(norm, self._clip_norm)
        if not self.compiled and updates_in_place(self.optimizer):
            flat = dict(tree_flatten(gradients))
            gradients.clear()  # the caller's too, so that each array is freed once it is used
            update_in_place(self.optimizer, self.model, flat, factor)
        else:
            self.optimizer.update(self.model, tree_map(lambda g: g * factor, gradients))
        if self.average is not None:
            self.average.update(self.model)
        return norm

    def predict(self, x: np.ndarray) -> Any:
        """Return the model's output for x (N, D, H, W, C), in its present mode and the run's precision."""
        return self.model(mx.array(x).astype(self._dtype))

    def _bind(self) -> None:
        """Collect the state, and compile the step on it; called again when other arrays replace it."""
        average = {} if self.average is None else self.average.state
        mixup = {} if self._mixup is None else self._mixup.state
        self._state = [self.model.state, self.optimizer.state, average, mixup, mx.random.state]
        self._gradients, self._update = self._gradients_of_model, self._apply
        if self.compiled:
            self._gradients = mx.compile(self._gradients, inputs=self._state, outputs=self._state)
            self._update = mx.compile(self._update, inputs=self._state, outputs=self._state)

    def tensors(self) -> dict[str, dict[str, mx.array]]:
        """Return all arrays that a resumed run needs: {file name: {tensor name: array}}, for `save_checkpoint`.

        They are the step's own arrays, which the next step changes: write or copy them before it.
        """
        optimizer = {f"optimizer.{name}": a for name, a in tree_flatten(self.optimizer.state)}
        files = {"model": dict(tree_flatten(self.model.parameters())), "optimizer": optimizer}
        optimizer["random.key"] = random_key()
        if self._mixup is not None:
            optimizer["mixup.key"] = self._mixup.state["key"]
        if self.average is not None:
            files["ema"] = dict(self.average.state["average"])
            optimizer["ema.step"] = self.average.state["step"]
        return files

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint: weights, their average, the optimiser's state and the random keys.

        A checkpoint from before mixup had a key of its own leaves the key as the seed made it, with a warning.
        Raises CheckpointError that lists every tensor that doesn't fit.
        """
        files = {}
        for name, expected in self.tensors().items():
            file = checkpoint / f"{name}.safetensors"
            files[name] = arrays = read_tensors(file)
            if "mixup.key" in expected and "mixup.key" not in arrays:
                _log.warning("%s: an older version wrote it, without mixup.key; blends are drawn from the seed", file)
                arrays["mixup.key"] = expected["mixup.key"]
            check_same_tensors(expected, arrays, file)
        self._set(files)

    def synchronise(self) -> None:
        """Give all processes of the group rank 0's weights, their average and the optimiser's state."""
        self._set({name: self._group.broadcast(arrays) for name, arrays in self.tensors().items()})

    def _set(self, files: Mapping[str, Mapping[str, mx.array]]) -> None:
        """Continue from arrays such as `tensors` returns."""
        arrays, prefix = files["optimizer"], "optimizer."
        self.model.update(tree_unflatten(list(files["model"].items())))
        mx.eval(self.model.parameters())
        state = [(name.removeprefix(prefix), a) for name, a in arrays.items() if name.startswith(prefix)]
        self.optimizer.state = tree_unflatten(state)
        self.optimizer.init(self.model.trainable_parameters())  # marks it as ready; what it holds stays
        set_random_key(arrays["random.key"])
        if self._mixup is not None:
            self._mixup.state["key"] = arrays["mixup.key"]
        if self.average is not None:
            self.average.set(files["ema"], arrays["ema.step"])
        self._bind()


def should_compile(when: str) -> bool:
    """Return whether the step is compiled, for `train.compile` = auto | always | never.

    Raises ValueError for `always` where the operators cannot be compiled.
    """
    if when == "always" and backend.active() != "mlx":
        raise ValueError(
            f"train.compile=always: the {backend.active()} operators leave MLX and cannot be compiled; "
            "use train.compile=auto, or ops=mlx"
        )
    return when == "always" or (when == "auto" and mx.default_device().type == mx.DeviceType.gpu)


def compute_dtype(precision: str) -> mx.Dtype:
    """Return the dtype of activations for `train.precision`; raise ValueError as `settle` does."""
    return mx.bfloat16 if settle(precision, backend.why_no_bfloat16()) == "bfloat16" else mx.float32


def random_key() -> mx.array:
    """Return the state of MLX's random numbers, (2,) uint32."""
    key: mx.array = next(iter(mx.random.state))  # type: ignore[call-overload]  # a sequence of one, says MLX
    return mx.array(key)


def set_random_key(key: mx.array) -> None:
    """Set MLX's random numbers to a state that `random_key` returned."""
    high, low = np.array(key).tolist()
    mx.random.seed(high << 32 | low)  # MLX splits a seed into just these two halves
