"""Our networks against outputs of torchvision's and MONAI's with the same weights; see freeze_torch_outputs.py."""

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from engine.convert import convert, describe
from models import build_model
from models.layers.heads import ClassifierDropout
from models.resnet3d import ResNet3dArgs
from models.unet3d import Dropout, UNet3dArgs
from models.video_resnet import VideoResNetArgs
from models.weights.published import PUBLISHED
from tests.models import seeded

pytestmark = pytest.mark.slow

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("torch_outputs.json").read_text())
NUM_OUTPUTS = 5


def _dynunet_name(name: str) -> str:
    for pattern, replacement in (
        (r"^encoder\.0", "input_block"),
        (r"^encoder\.1", "downsamples.0"),
        (r"^up\.0", "upsamples.1.transp_conv.conv"),
        (r"^up\.1", "upsamples.0.transp_conv.conv"),
        (r"^decoder\.0", "upsamples.1.conv_block"),
        (r"^decoder\.1", "upsamples.0.conv_block"),
        (r"^heads\.0", "output_block.conv.conv"),
        (r"blocks\.0\.(conv|norm)", r"\g<1>1"),
        (r"blocks\.1\.(conv|norm)", r"\g<1>2"),
        (r"(conv\d)\.", r"\1.conv."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _fill(model: nn.Module, name_there: Any) -> None:
    weights = []
    for name, value in tree_flatten(model.parameters()):
        shape = value.shape
        if value.ndim == 5 and name.startswith("up."):
            array = seeded.array(name_there(name), (shape[-1], shape[0], *shape[1:-1]))
            array = array.transpose(1, 2, 3, 4, 0)
        elif value.ndim == 5:
            array = seeded.array(name_there(name), (shape[0], shape[-1], *shape[1:-1]))
            array = array.transpose(0, 2, 3, 4, 1)
        elif name.startswith("up."):  # DynUNet's transposed convolutions have no bias
            array = np.zeros(shape, np.float32)
        else:
            array = seeded.array(name_there(name), shape)
        weights.append((name, mx.array(array)))
    model.load_weights(weights)


def _image(channels: int, size: tuple[int, int, int]) -> mx.array:
    return mx.array(seeded.image(channels, size).transpose(0, 2, 3, 4, 1))


def _check(model: nn.Module, architecture: str, x: mx.array, frozen: list[float]) -> None:
    """The seeded weights, as PyTorch has them, come the way that published ones do."""
    there = PUBLISHED[architecture].name_there
    state = {}
    for name, value in tree_flatten(model.parameters()):
        outputs, *kernel = value.shape
        shape = (outputs, kernel[-1], *kernel[:-1]) if value.ndim == 5 else (outputs, *kernel)
        state[there(name)] = seeded.array(there(name), shape)
    conversion = convert(state, architecture)
    assert describe(conversion) == ""
    model.load_weights([(name, mx.array(array)) for name, array in conversion.tensors.items()])
    model.eval()
    expected = np.array(frozen)
    np.testing.assert_allclose(np.array(model(x))[0], expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_video_networks_are_torchvisions(name: str) -> None:
    args = VideoResNetArgs(dropout=ClassifierDropout(places=("body", "head")))
    _check(build_model(name, args, 3, NUM_OUTPUTS), name, _image(3, (6, 20, 24)), FROZEN[name])


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18", {"stem_stride": (1, 1, 1), "shortcut_bias": True}),
        (
            "resnet18, strided stem, no pooling",
            {"stem_kernel": (3, 5, 7), "stem_stride": (1, 2, 2), "max_pool": False, "shortcut_bias": True},
        ),
        ("resnet10, shortcut A", {"depth": 10, "stem_stride": (1, 1, 1), "shortcut": "A"}),
        ("resnet50", {"depth": 50, "stem_stride": (1, 1, 1)}),
    ],
)
def test_resnets_are_monais(name: str, args: dict[str, Any]) -> None:
    model = build_model("resnet3d", ResNet3dArgs(**args), 1, NUM_OUTPUTS)
    _check(model, f"monai_{name.split(',')[0]}", _image(1, (18, 20, 24)), FROZEN[name])


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_resnets_are_medicalnets(depth: int) -> None:
    architecture = f"medicalnet_resnet{depth}"
    model = build_model("resnet3d", ResNet3dArgs(**PUBLISHED[architecture].args), 1, NUM_OUTPUTS)
    _check(model, architecture, _image(1, (34, 36, 40)), FROZEN[architecture])


def test_unet_and_its_gradients_are_nnunets(form: str) -> None:
    frozen = FROZEN["unet"]
    args = UNet3dArgs(widths=(4, 6, 8), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), dropout=Dropout(kind="none"))
    model = build_model("unet3d", args, 1, NUM_OUTPUTS)
    _fill(model, _dynunet_name)
    x = _image(1, (4, 12, 8))
    logits = np.array(model(x)).transpose(0, 4, 1, 2, 3).flatten()
    np.testing.assert_allclose(logits, frozen["logits"], rtol=0, atol=1e-5)

    _, gradients = nn.value_and_grad(model, lambda x: model(x).square().mean())(x)
    compared = 0
    for name, gradient in tree_flatten(gradients):
        if _dynunet_name(name) in frozen:
            norm = float(mx.linalg.norm(gradient.flatten()))
            assert norm == pytest.approx(frozen[_dynunet_name(name)][0], rel=1e-4), name
            compared += 1
    assert compared == len(frozen) - 1
