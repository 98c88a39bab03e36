"""Whether a config goes together with the data that it names, and with the device."""

import math
from collections.abc import Sequence
from typing import Any

from configs import Config
from configs.schema.model import MAX_ELEMENTS
from engine.evaluation.classification import is_multi_label, validation_metrics
from ops import backend


def check_fits_the_data(config: Config, data: Any) -> None:
    """Raise ValueError unless the loss fits the labels, and validation reports what decides on the best checkpoint."""
    known = ["dice.mean", *(f"dice.{name}" for name in data.class_names[1:])]
    if config.task == "classification":
        known = validation_metrics(data.class_names)
        may_coincide = bool(getattr(data, "multi_label", False))
        if is_multi_label(config) != may_coincide:
            labels = "may coincide" if may_coincide else "exclude each other"
            wanted = " or ".join(config.choices.losses_for("classes" if may_coincide else "class"))
            raise ValueError(
                f"loss.name={config.loss.name} does not fit the labels of {config.data.root}, which {labels}; "
                f"use {wanted}"
            )
    if config.checkpoint.metric not in known:
        raise ValueError(f"checkpoint.metric={config.checkpoint.metric}: validation knows {', '.join(known)}")


def check_array_sizes(config: Config, data: Any, training: bool) -> None:
    """Raise ValueError where a window, or `training` a batch of patches, would make an array of over MAX_ELEMENTS.

    The CPU's own operators index with 64 bits, and have no such limit.
    """
    if backend.active() != "mlx":
        return
    size_key = "data.patch_size_voxels" if config.data.clip is None else "data.clip"
    if training or config.task == "classification":
        _check_array_size(config, data, size_key, config.data.input_size, "train.batch_size", config.train.batch_size)
    if config.task == "segmentation":
        window, batch = config.evaluate.window_size_voxels, config.evaluate.window_batch
        key = "evaluate.window_size_voxels" if window else size_key
        _check_array_size(config, data, key, window or config.data.input_size, "evaluate.window_batch", batch)


def _check_array_size(
    config: Config, data: Any, size_key: str, size: tuple[int, ...], batch_key: str, batch: int
) -> None:
    args = config.model.args
    widest, steps = max(data.num_channels, data.num_outputs if args.segments else 0), args.total_stride()

    def elements(size: Sequence[int]) -> int:
        return max(args.largest_activation(tuple(size)), math.prod(size) * widest)

    one, fitting = elements(size), list(size)
    if batch * one <= MAX_ELEMENTS:
        return
    while batch * elements(fitting) > MAX_ELEMENTS and fitting != list(steps):
        axis = max(range(3), key=lambda a: fitting[a] if fitting[a] > steps[a] else 0)
        fitting[axis] -= steps[axis]
    fewer = f"{batch_key}={MAX_ELEMENTS // one} or " if one <= MAX_ELEMENTS else ""
    raise ValueError(
        f"{size_key}={list(size)} with {batch_key}={batch}: the largest array of {config.model.name} would have "
        f"{batch * one:,} elements, and MLX's GPU kernels index {MAX_ELEMENTS:,}; use {fewer}{size_key}={fitting}"
    )
