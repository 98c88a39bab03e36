"""Networks of Conv3d blocks with dropout."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing

# isort: split
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from models.cnn3d import CNN3d
from models.resnet3d import ResNet3d
from models.unet3d import UNet3d
from models.video_resnet import VideoResNet

# name: a callable of (in_channels, num_outputs, args)
MODELS: dict[str, Callable[[int, int, Any], nn.Module]] = {
    "unet3d": UNet3d,
    "cnn3d": CNN3d,
    "resnet3d": ResNet3d,
    "r3d_18": partial(VideoResNet, kind="r3d_18"),
    "mc3_18": partial(VideoResNet, kind="mc3_18"),
    "r2plus1d_18": partial(VideoResNet, kind="r2plus1d_18"),
}


def build_model(name: str, args: Any, in_channels: int, num_outputs: int) -> nn.Module:
    """Return the network `name` with the config's `args`, its weights drawn from the state of `mx.random`.

    Under one seed the weights are the same whatever the dropout. Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"model.name={name!r} is unknown: expected one of {', '.join(MODELS)}")
    return MODELS[name](in_channels, num_outputs, args)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers training may change: frozen parameters and running statistics don't count."""
    return sum(math.prod(p.shape) for _, p in tree_flatten(model.trainable_parameters()))


__all__ = ["MODELS", "build_model", "count_parameters"]
