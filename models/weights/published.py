"""Networks of other libraries whose published weights fit ours, and the arguments that build ours alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.weights.torch_names import monai_name, torchvision_name


@dataclass(frozen=True)
class Published:
    """One network: `model.name` and `model.args` of the config, and its parameters' names there."""

    model: str
    args: dict[str, Any]
    name_there: Callable[[str], str]
    stem: str  # the first convolution's weight there, (out, in, kD, kH, kW)
    ignored: tuple[str, ...] = ()  # prefixes of a head that has no counterpart here
    variable: bool = False  # whether its kernel and shortcuts vary, and are read from the weights


def _medicalnet(depth: int) -> Published:
    """Med3D (Chen et al. 2019, arXiv:1904.00625), github.com/Tencent/MedicalNet, models/resnet.py.

    Two strides in layers 3 and 4 are dilations instead, and no convolution has a bias. The shortcuts are those of
    its README's table of weights: A in 18 and 34, B in 10 and 50. conv_seg segments; there is no classifier.
    """
    shortcut = "A" if depth in (18, 34) else "B"
    args = {"depth": depth, "layer_strides": [1, 2, 1, 1], "layer_dilations": [1, 1, 2, 4], "shortcut": shortcut}
    return Published("resnet3d", args, monai_name, "conv1.weight", ignored=("conv_seg.",))


def _monai(depth: int) -> Published:
    """monai.networks.nets.resnet10 and so on, with their default strides."""
    return Published("resnet3d", {"depth": depth, "stem_stride": [1, 1, 1]}, monai_name, "conv1.weight", variable=True)


PUBLISHED = {
    **{name: Published(name, {}, torchvision_name, "stem.0.weight") for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
    **{f"medicalnet_resnet{depth}": _medicalnet(depth) for depth in (10, 18, 34, 50)},
    **{f"monai_resnet{depth}": _monai(depth) for depth in (10, 18, 34, 50)},
}


def model_args(published: Published, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the `model.args` of the network that the weights are of: {name there: array}, in PyTorch's layout."""
    if not published.variable:
        return published.args
    shortcuts = [name for name in state if ".downsample." in name]
    args = {**published.args, "shortcut": "B" if shortcuts else "A"}
    if any(name.endswith(".downsample.0.bias") for name in shortcuts):
        args["shortcut_bias"] = True
    kernel = list(state[published.stem].shape[2:])
    return {**args, "stem_kernel": kernel} if kernel != [7, 7, 7] else args
