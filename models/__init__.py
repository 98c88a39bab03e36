"""Networks of Conv3d blocks with dropout."""

import machine  # noqa: F401  # first: it says how to start where packages are missing

# isort: split
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.nn as nn
from mlx.utils import tree_flatten

from configs.schema.model import NetworkArgs
from models.cnn3d import CNN3d, CNN3dArgs
from models.resnet3d import ResNet3d, ResNet3dArgs
from models.unet3d import UNet3d, UNet3dArgs
from models.video_resnet import MC3Args, R2Plus1DArgs, VideoResNet, VideoResNetArgs


class Network(NamedTuple):
    """A network: what builds it of (in_channels, num_outputs, args), and the class of its arguments."""

    build: Callable[[int, int, Any], nn.Module]
    args: type[NetworkArgs]


MODELS = {  # by `model.name`; the first is the default
    "unet3d": Network(UNet3d, UNet3dArgs),
    "cnn3d": Network(CNN3d, CNN3dArgs),
    "resnet3d": Network(ResNet3d, ResNet3dArgs),
    "r3d_18": Network(partial(VideoResNet, kind="r3d_18"), VideoResNetArgs),
    "mc3_18": Network(partial(VideoResNet, kind="mc3_18"), MC3Args),
    "r2plus1d_18": Network(partial(VideoResNet, kind="r2plus1d_18"), R2Plus1DArgs),
}


def build_model(name: str, args: Any, in_channels: int, num_outputs: int) -> nn.Module:
    """Return the network `name` with the config's `args`, its weights drawn from the state of `mx.random`.

    With one seed the weights are the same for each dropout. Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"model.name={name!r} is unknown: expected one of {', '.join(MODELS)}")
    return MODELS[name].build(in_channels, num_outputs, args)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers training may change: frozen parameters and running statistics don't count."""
    return sum(math.prod(p.shape) for _, p in tree_flatten(model.trainable_parameters()))


__all__ = ["MODELS", "Network", "build_model", "count_parameters"]
