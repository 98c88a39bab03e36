from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from pydantic import ValidationError

from models import build_model, count_parameters
from models.cnn3d import CNN3dArgs
from models.layers.dropout import dropout_table, kept_shares
from models.layers.heads import ClassifierDropout
from models.resnet3d import PadShortcut, ResNet3dArgs
from models.video_resnet import VideoResNetArgs
from models.weights.torch_names import monai_name, torchvision_name

BODY_AND_HEAD = ClassifierDropout(places=("body", "head"))


@pytest.mark.parametrize(
    ("name", "parameters"), [("r3d_18", 33371472), ("mc3_18", 11695440), ("r2plus1d_18", 31505325)]
)
def test_video_networks_have_as_many_parameters_as_torchvisions(name: str, parameters: int) -> None:
    assert count_parameters(build_model(name, VideoResNetArgs(), 3, 400)) == parameters


def test_cnn_pools_between_blocks() -> None:
    model = build_model("cnn3d", CNN3dArgs(widths=(4, 8, 16), pool=(1, 2, 2), dropout=BODY_AND_HEAD), 2, 5)
    x = mx.random.normal((3, 4, 8, 9, 2))
    assert model.features(x).shape == (3, 4, 2, 2, 16)
    assert model(x).shape == (3, 5)
    body = [(f"blocks.{i}.drop", "body") for i in range(3)]
    assert [(row.path, row.place) for row in dropout_table(model)] == [*body, ("head.drop", "head")]
    with pytest.raises(ValueError, match=r"cnn3d takes \(N, D, H, W, 2\) arrays; got shape \(4, 8, 8, 2\)"):
        model(mx.zeros((4, 8, 8, 2)))
    with pytest.raises(ValueError, match=r"\(4, 1, 1\) voxels are too few .* block 3; set model\.args\.pool to 1"):
        model(mx.zeros((1, 4, 2, 2, 2)))


def test_head_averages_then_drops_whole_features() -> None:
    args = CNN3dArgs(widths=(64,), dropout=ClassifierDropout(rate=0.5, places=("head",)))
    model = build_model("cnn3d", args, 1, 64)
    model.head.fc.weight, model.head.fc.bias = mx.eye(64), mx.zeros((64,))
    x = mx.random.normal((2, 4, 4, 4, 1))
    features = np.array(model.features(x)).mean(axis=(1, 2, 3))
    mx.random.seed(0)
    logits = np.array(model(x))
    kept = logits != 0
    np.testing.assert_allclose(logits[kept], 2 * features[kept], rtol=1e-5)
    assert 0.3 < kept.mean() < 0.7
    model.eval()
    assert np.array(model(x)).shape == (2, 64)


def test_medicalnets_strides_dilations_and_shortcut_a() -> None:
    args = ResNet3dArgs(width=4, layer_strides=(1, 2, 1, 1), layer_dilations=(1, 1, 2, 4), shortcut="A")
    model = build_model("resnet3d", args, 1, 2)
    assert model.layer4[1].conv2.conv.dilation == 4
    assert model.layer4[1].conv2.conv.padding == (4, 4, 4)
    assert type(model.layer2[0].shortcut) is PadShortcut
    # An eighth of the resolution: stem, pooling and the second stage.
    assert model.features(mx.zeros((1, 32, 32, 48, 1))).shape == (1, 4, 4, 6, 32)
    x = mx.random.normal((1, 3, 4, 5, 2))
    y = np.array(PadShortcut(2, 5, 2)(x))
    np.testing.assert_array_equal(y[..., :2], np.array(x)[:, ::2, ::2, ::2])
    assert y.shape == (1, 2, 2, 3, 5)
    assert not y[..., 2:].any()


def test_initial_weights_are_torchvisions() -> None:
    model = build_model("r3d_18", VideoResNetArgs(), 3, 400)
    weight = np.array(model.layer2[0].conv1.conv.weight)  # fan-out: 128 × 27
    assert weight.std() == pytest.approx(np.sqrt(2 / (128 * 27)), rel=0.02)
    assert np.array(model.head.fc.weight).std() == pytest.approx(0.01, rel=0.02)
    assert not np.array(model.head.fc.bias).any()


def test_logits_are_float32_and_no_gradient_reaches_the_image() -> None:
    model = build_model("cnn3d", CNN3dArgs(widths=(8, 16), dropout=ClassifierDropout(kind="none")), 1, 2)
    x = mx.random.normal((2, 8, 8, 8, 1))
    expected = np.array(model(x))
    logits = model(x.astype(mx.bfloat16))
    assert logits.dtype == mx.float32
    np.testing.assert_allclose(np.array(logits), expected, atol=0.05 * np.abs(expected).max() + 0.02)
    model = build_model("cnn3d", CNN3dArgs(widths=(8,), dropout=ClassifierDropout(kind="none")), 1, 2)
    gradient = mx.grad(lambda x: model(x).sum())(mx.random.normal((1, 4, 4, 4, 1)))
    assert not np.array(gradient).any()
    loss_and_grad = nn.value_and_grad(model, lambda x: model(x).square().sum())
    assert np.array(loss_and_grad(mx.random.normal((1, 4, 4, 4, 1)))[1]["blocks"][0]["conv"]["weight"]).any()


def test_names_elsewhere() -> None:
    assert torchvision_name("stem.0.conv.weight") == "stem.0.weight"
    assert torchvision_name("layer2.0.shortcut.norm.bias") == "layer2.0.downsample.1.bias"
    assert torchvision_name("layer1.0.conv2.temporal.norm.running_var") == "layer1.0.conv2.1.running_var"
    assert monai_name("layer1.0.conv2.norm.bias") == "layer1.0.bn2.bias"
    assert monai_name("layer3.0.shortcut.conv.weight") == "layer3.0.downsample.0.weight"


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        (CNN3dArgs, {"widths": (12,), "norm": "group"}, "must be multiples of groups=8"),
        (CNN3dArgs, {"kernel": (2, 3, 3)}, "kernel must be odd"),
        (ResNet3dArgs, {"stem_kernel": (4, 3, 3)}, "stem_kernel must be odd"),
        (ResNet3dArgs, {"width": 12, "norm": "group"}, "width=12 must be a multiple of groups=8"),
        (ClassifierDropout, {"places": ("encoder",)}, "places"),
    ],
)
def test_bad_arguments_are_refused(args: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        args(**given)


@pytest.mark.parametrize("name", ["cnn3d", "resnet3d", "r3d_18"])
def test_no_default_puts_dropout_before_a_batch_norm(name: str) -> None:
    args = {"cnn3d": CNN3dArgs(), "resnet3d": ResNet3dArgs(width=4), "r3d_18": VideoResNetArgs()}[name]
    assert [row.place for row in dropout_table(build_model(name, args, 1, 2))] == ["head"]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("cnn3d", CNN3dArgs(widths=(4, 8))),
        ("resnet3d", ResNet3dArgs(depth=10, width=4)),
        ("resnet3d", ResNet3dArgs(depth=50, width=4)),
        ("r3d_18", VideoResNetArgs()),
        ("r2plus1d_18", VideoResNetArgs()),
    ],
)
def test_position_reaches_every_block_with_dropout(name: str, args: Any) -> None:
    dropout = ClassifierDropout(places=("body", "head"), position="before_norm")
    *body, head = dropout_table(build_model(name, args.model_copy(update={"dropout": dropout}), 1, 2))
    assert len(body) > 1
    assert {row.position for row in body} == {"before_norm"}
    assert (head.place, head.position) == ("head", "")


def test_kept_shares_count_every_mask_on_a_path() -> None:
    dropout = ClassifierDropout(rate=0.2, places=("body", "head"))
    cnn = build_model("cnn3d", CNN3dArgs(dropout=dropout), 1, 2)
    assert kept_shares(cnn) == {"body": 0.8, "head": 0.64}  # the last block's channels are pooled, and masked again
    resnet = build_model("resnet3d", ResNet3dArgs(depth=10, width=4, dropout=dropout), 1, 2)
    assert kept_shares(resnet) == {"body": 0.8, "head": 0.8}  # a block's end drops nothing
