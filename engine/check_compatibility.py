"""Checks that a config fits its data and the device."""

import math
from collections.abc import Sequence
from typing import Any

from configs import Config
from configs.schema.model import MAX_ELEMENTS
from configs.schema.task import InputSize, trained
from engine.evaluation.tasks import room_of
from ops import backend


def check_fits_the_data(config: Config, data: Any) -> None:
    """Raise ValueError unless the loss fits the labels and validation reports `checkpoint.metric`."""
    room = room_of(config)
    room.check_labels(config, data)
    known = room.validation_metrics(config, data.class_names)
    if config.checkpoint.metric not in known:
        raise ValueError(f"checkpoint.metric={config.checkpoint.metric}: validation reports {', '.join(known)}")


def check_array_sizes(config: Config, data: Any, training: bool) -> None:
    """Raise ValueError where a batch of windows, or in training of patches, needs an array of over MAX_ELEMENTS.

    The CPU's own operators index with 64 bits and have no such limit.
    """
    if backend.active() != "mlx":
        return
    for passed in (*([trained(config)] if training else []), config.kind.predicted(config)):
        _check_array_size(config, data, passed)


def _check_array_size(config: Config, data: Any, passed: InputSize) -> None:
    args, (size_key, size, batch_key, batch) = config.model.args, passed
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
        f"{size_key}={list(size)} with {batch_key}={batch}: the largest array of {config.model.name} would hold "
        f"{batch * one:,} elements, and MLX's GPU kernels index {MAX_ELEMENTS:,}; use {fewer}{size_key}={fitting}"
    )
