"""What a config takes of memory, by estimate, told before anything of it is allocated.

The estimates are low: what they refuse cannot run, and what they let pass may still end for want of memory.
"""

import math
from collections.abc import Mapping
from typing import Any

from configs import Config
from configs.schema.task import trained
from ops import backend, memory

Shape = tuple[int, int, int]  # (D, H, W)

# Arrays of the largest activation's size that are there at once. Measured on a CPU with oneDNN, float32, 96³ and 128³:
# prediction 3.4 to 6.7; training 10.7 and 12.8 in U-Nets of two convolutions a level, 7 and 20 in classifiers.
_PREDICTING = 3
_TRAINING = 5
_BYTES_A_WEIGHT = {"adamw": 16, "sgd": 12}  # weight, gradient, moments
_LOGITS_PREDICTING, _LOGITS_TRAINING = 3, 6  # float32 arrays of all classes, with their gradients


def limit_bytes(config: Config) -> tuple[int, str]:
    """Return the limit, and why: `memory_limit_gb`, else a share of what the device has."""
    if config.memory_limit_gb is not None:
        return round(config.memory_limit_gb * 1e9), "memory_limit_gb"
    return memory.default_limit()


def require_training_fits(config: Config, num_channels: int, num_outputs: int, num_weights: int) -> None:
    """Raise ValueError, in one line with the keys, where a step of training takes more memory than the limit."""
    train, args, data = config.train, config.model.args, config.data
    voxels = math.prod(data.input_size)
    itemsize = 4 if train.precision == "float32" else 2
    queued = data.prefetch_batches + train.accumulate + 1
    size_key = trained(config).size_key
    activations = _TRAINING * itemsize * args.largest_activation(data.input_size) + _unfolded(config, data.input_size)
    classes = voxels * num_outputs * 4 * _LOGITS_TRAINING if args.segments else 0
    parts = {
        "model.args": _BYTES_A_WEIGHT[config.optim.name] * num_weights,
        f"{size_key}, train.batch_size or model.args": train.batch_size * (activations + classes),
        f"{size_key}, train.batch_size, train.accumulate or data.prefetch_batches": (
            queued * train.batch_size * voxels * num_channels * 4
        ),
    }
    _require("training", parts, config)


def require_preparation_fits(config: Config, data: Any) -> None:
    """Raise ValueError where resampling the largest case takes more memory than the limit, by the headers."""
    if config.data.spacing_mm is not None and not config.data.crop_nonzero:
        _require("resampling the largest case", {"data.spacing_mm": data.bytes_to_prepare()}, config)


def require_prediction_fits(config: Config, num_channels: int, num_outputs: int) -> None:
    """Raise ValueError where one batch of windows, or of a case's views, takes more memory than the limit."""
    args, (key, size, batch_key, batch) = config.model.args, config.kind.predicted(config)
    voxels = math.prod(size)
    itemsize = 4 if config.train.precision == "float32" else 2
    each = _PREDICTING * itemsize * args.largest_activation(size) + _unfolded(config, size) + 8 * voxels * num_channels
    each += voxels * num_outputs * 4 * _LOGITS_PREDICTING if args.segments else 0
    _require("prediction", {f"{key} or {batch_key}": batch * each}, config)


def require_case_fits(config: Config, shapes: tuple[Shape, Shape], num_classes: int, num_members: int) -> None:
    """Raise ValueError where a case's volume takes more memory than the limit, by its header.

    shapes: of the volume (D, H, W) in its file, and once resampled; one channel counts.
    """
    source, prepared = shapes
    if config.data.crop_nonzero:
        return  # how much is left shows in the voxels alone
    in_file, seen, is_resampled = math.prod(source), math.prod(prepared), source != prepared
    parts = {
        "data.spacing_mm": 4 * (in_file + (seen if is_resampled else 0)),
        "data.spacing_mm or the number of members": 4 * num_classes * seen * (is_resampled + (num_members > 1)),
        "evaluate.save_probabilities": 4 * num_classes * in_file * config.evaluate.save_probabilities,
    }
    resampled = f", {'×'.join(map(str, prepared))} once resampled," if is_resampled else ""
    _require(f"prediction of its {'×'.join(map(str, source))} voxels{resampled}", parts, config)


def _unfolded(config: Config, size: tuple[int, ...]) -> int:
    """Bytes of the largest input that MLX's own convolution unfolds on a CPU; GPUs and oneDNN unfold none."""
    if backend.active() != "mlx" or memory.on_gpu():
        return 0
    itemsize = 4 if config.train.precision == "float32" else 2
    return itemsize * config.model.args.largest_unfolded(size)


def _require(what: str, parts: Mapping[str, int], config: Config) -> None:
    (limit, why), total = limit_bytes(config), sum(parts.values())
    if total <= limit:
        return
    keys = max(parts, key=lambda key: parts[key])
    raise ValueError(
        f"{what} takes at least {total / 1e9:,.1f} GB of memory, and {limit / 1e9:,.1f} GB is the limit ({why}); "
        f"change {keys}, which take {parts[keys] / 1e9:,.1f} GB of it, or raise memory_limit_gb where there is more"
    )
