from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from configs import ConfigError
from engine.config import load_config
from models import build_model
from models.cnn3d import CNN3dArgs
from models.layers.dropout import (
    apply_dropout,
    channel_mask,
    check_norms,
    dropout_layers,
    dropout_table,
    format_table,
    held_masks,
    set_rate,
)
from models.layers.heads import ClassifierDropout
from models.resnet3d import ResNet3dArgs
from models.unet3d import Dropout, UNet3dArgs
from tests.engine.doubles import assert_same

SHAPE = (3, 2, 3, 4, 64)  # (N, D, H, W, C)


def _unet(kind: str = "channel", rate: float = 0.25, places: tuple[str, ...] = ("encoder",)) -> nn.Module:
    dropout = Dropout(kind=kind, rate=rate, places=places)
    return build_model("unet3d", UNet3dArgs(widths=(8, 16), convolutions=1, dropout=dropout), 1, 2)


def _layer(**options: object) -> nn.Module:
    return next(layer for _, layer in dropout_layers(_unet(**options)))


def test_unet_drops_whole_channels_per_sample() -> None:
    layer = _layer(rate=0.25)
    assert type(layer) is nn.Dropout3d
    mx.random.seed(0)
    y = np.array(layer(mx.ones(SHAPE)))
    per_channel = y[:, 0, 0, 0]
    np.testing.assert_array_equal(y, np.broadcast_to(per_channel[:, None, None, None], SHAPE))
    np.testing.assert_allclose(np.unique(per_channel), [0, 1 / 0.75], rtol=1e-6)  # survivors are scaled
    assert (per_channel[0] != per_channel[1]).any()  # each sample has its own
    assert (per_channel[1] != per_channel[2]).any()
    mx.random.seed(0)
    y = np.array(layer(mx.ones(SHAPE[1:])))
    np.testing.assert_array_equal(y, np.broadcast_to(y[0, 0, 0], SHAPE[1:]))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    mx.random.seed(0)
    np.testing.assert_allclose(np.array(apply_dropout(layer, mx.ones(SHAPE[1:]))), y, rtol=1e-6)


def test_element_dropout_drops_single_voxels() -> None:
    layer = _layer(kind="element", rate=0.25)
    assert type(layer) is nn.Dropout
    mx.random.seed(0)
    y = np.array(apply_dropout(layer, mx.ones(SHAPE)))
    share = (y == 0).mean(axis=(1, 2, 3))  # per sample and channel
    assert 0 < share.min() < share.max() < 1
    assert abs((y == 0).mean() - 0.25) < 0.02
    mx.random.seed(0)
    np.testing.assert_allclose(y, np.array(layer(mx.ones(SHAPE))), rtol=1e-6)


@pytest.mark.parametrize("kind", ["element", "channel"])
def test_expectation_is_kept(kind: str) -> None:
    layer = _layer(kind=kind, rate=0.4)
    mx.random.seed(0)
    y = apply_dropout(layer, mx.full((2000, 1, 1, 1, 16), 3.0))
    standard_error = 3 * np.sqrt(0.4 / 0.6) / np.sqrt(2000 * 16)
    assert abs(float(y.mean()) - 3) < 4 * standard_error


@pytest.mark.parametrize("kind", ["element", "channel"])
def test_evaluation_and_rate_zero_are_the_identity(kind: str) -> None:
    x = mx.random.normal(SHAPE)
    layer = _layer(kind=kind, rate=0.5)
    layer.eval()
    zero = _layer(kind=kind, rate=0.0)
    before = mx.random.state[0].tolist()
    for y in (layer(x), apply_dropout(layer, x), zero(x), apply_dropout(zero, x)):
        assert mx.array_equal(y, x)
    assert mx.random.state[0].tolist() == before  # and draw nothing


def test_mask_holds_zeros_and_one_constant() -> None:
    mx.random.seed(0)
    mask = channel_mask(nn.Dropout3d(0.5), mx.zeros(SHAPE, mx.bfloat16))
    assert mask.shape == (3, 64)
    assert mask.dtype == mx.float32
    assert set(np.unique(np.array(mask)).tolist()) == {0.0, 2.0}
    with pytest.raises(ValueError, match=r"Dropout3d takes \(N, D, H, W, C\) or \(D, H, W, C\); got shape \(3, 4\)"):
        channel_mask(nn.Dropout3d(0.5), mx.zeros((3, 4)))


def test_table_lists_the_layers_that_are_there() -> None:
    model = _unet(rate=0.3, places=("encoder", "bottleneck", "decoder", "skip"))
    rows = [(row.path, row.kind, row.rate, row.place, row.position) for row in dropout_table(model)]
    assert rows == [
        ("encoder.0.blocks.0.drop", "channel", 0.3, "encoder", "after_activation"),
        ("bottleneck.blocks.0.drop", "channel", 0.3, "bottleneck", "after_activation"),
        ("skip.0", "channel", 0.3, "skip", ""),
        ("decoder.0.blocks.0.drop", "channel", 0.3, "decoder", "after_activation"),
    ]
    model.encoder[0].blocks[0].drop = nn.Dropout(0.6)  # whatever the config said
    assert format_table(dropout_table(model)).splitlines()[:2] == [
        "layer                     kind     rate  place       position",
        "encoder.0.blocks.0.drop   element  0.6   encoder     after_activation",
    ]
    assert format_table(dropout_table(_unet(kind="none"))) == "no dropout layers"
    assert [row.rate for row in dropout_table(_unet(rate=0.0))] == [0.0]  # there, and the identity
    args = ResNet3dArgs(depth=10, width=8, dropout=ClassifierDropout(kind="element", places=("body", "head")))
    table = dropout_table(build_model("resnet3d", args, 1, 2))
    assert [(row.path, row.place) for row in table[::4]] == [("layer1.0.conv1.drop", "body"), ("head.drop", "head")]


def test_set_rate_changes_every_layer() -> None:
    model = _unet(places=("encoder", "skip"))
    set_rate(model, 0.75)
    assert [row.rate for row in dropout_table(model)] == [0.75, 0.75]
    mask = channel_mask(model.skip[0], mx.zeros((100, 1, 1, 1, 100)))
    assert set(np.unique(np.array(mask)).tolist()) == {0.0, 4.0}
    assert abs(float((mask == 0).mean()) - 0.75) < 0.02
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"dropout rate {rate} must be at least 0 and below 1"):
            set_rate(model, rate)


@pytest.mark.parametrize("rate", ["1", "-0.1"])
def test_rate_outside_its_range_is_refused_with_its_path(rate: str) -> None:
    demo = Path(__file__).parents[3] / "configs" / "demo_unet.yaml"
    with pytest.raises(ConfigError, match=r"model\.args\.dropout\.rate"):
        load_config(demo, [f"model.args.dropout.rate={rate}"])


@pytest.mark.parametrize("position", ["after_activation", "after_norm", "before_norm"])
def test_a_rate_set_later_counts_in_each_position(position: Any) -> None:
    """Of 0 it changes nothing, of almost 1 it leaves what the biases make."""
    dropout = Dropout(rate=0.5, places=("bottleneck",), position=position)
    model = build_model("unet3d", UNet3dArgs(widths=(8,), convolutions=1, dropout=dropout), 1, 2)
    x = mx.random.normal((1, 4, 4, 4, 1))
    model.eval()
    whole = model(x)
    model.train()
    set_rate(model, 0.0)
    np.testing.assert_allclose(np.array(model(x)), np.array(whole), atol=1e-5)
    set_rate(model, 0.999999)
    np.testing.assert_allclose(np.array(model(x)), np.broadcast_to(np.array(model.heads[0].bias), (1, 4, 4, 4, 2)))


def _held(model: nn.Module, x: mx.array, seed: int) -> np.ndarray:
    with held_masks(model, seed):
        return np.array(model(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["element", "channel"])
@pytest.mark.parametrize("position", ["after_activation", "before_norm"])
def test_held_masks_are_one_for_all_samples_and_calls(kind: str, position: Any) -> None:
    dropout = Dropout(kind=kind, rate=0.5, places=("encoder", "bottleneck", "decoder", "skip"), position=position)
    model = build_model("unet3d", UNet3dArgs(widths=(8, 16), convolutions=1, dropout=dropout), 1, 2)
    model.eval()
    x = mx.random.normal((1, 4, 4, 4, 1))
    plain, first = np.array(model(x)), _held(model, x, 3)
    twice = _held(model, mx.concatenate([x, x]), 3)
    np.testing.assert_allclose(twice, np.concatenate([first, first]), atol=1e-5)
    np.testing.assert_allclose(_held(model, x, 3), first, atol=1e-6)
    assert np.abs(_held(model, x, 4) - first).max() > 0.1
    np.testing.assert_array_equal(np.array(model(x)), plain)  # afterwards nothing drops


def test_layers_within_held_masks_have_masks_of_their_own() -> None:
    model = _unet(rate=0.5, places=("encoder", "decoder"))
    model.eval()
    x = mx.zeros((2, 1, 1, 1, 8))
    with held_masks(model, 0):
        masks = [np.array(channel_mask(layer, x)) for _, layer in dropout_layers(model)]
    assert set(np.unique(masks).tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(masks[0][0], masks[0][1])
    assert (masks[0] != masks[1]).any()
    with pytest.raises(ValueError, match="no dropout layer with a rate above 0"), held_masks(_unet(rate=0.0), 0):
        pass
    model = _unet()
    model.encoder[0].blocks[0].drop = nn.Dropout2d(0.5)
    with pytest.raises(ValueError, match=r"encoder\.0\.blocks\.0\.drop: masks of nn.Dropout and"), held_masks(model, 0):
        pass


def test_held_masks_leave_batch_norm_and_randomness_alone() -> None:
    dropout = ClassifierDropout(kind="element", places=("body", "head"))
    model = build_model("resnet3d", ResNet3dArgs(depth=10, width=4, norm="batch", dropout=dropout), 1, 2)
    model.eval()
    x = mx.random.normal((2, 8, 8, 8, 1))
    before = {name: np.array(value) for name, value in tree_flatten(model.state)}
    key = mx.random.state[0].tolist()
    alone, together = _held(model, x[:1], 0), _held(model, x, 0)
    np.testing.assert_allclose(together[:1], alone, atol=1e-4)  # running statistics: not those of the batch
    assert_same(dict(tree_flatten(model.state)), before)
    assert mx.random.state[0].tolist() == key
    assert not any(layer.training for layer in model.modules())


def test_dropout_before_batch_norms_is_warned_of_with_the_ways_out(caplog) -> None:
    body = ClassifierDropout(rate=0.5, places=("body",))

    def said(model: nn.Module, recalibrates: bool = False) -> str:
        caplog.clear()
        check_norms(model, recalibrates)
        return caplog.text

    def cnn(**args: Any) -> nn.Module:
        return build_model("cnn3d", CNN3dArgs(widths=(4, 8), **args), 1, 2)

    text = said(cnn(dropout=body))
    assert "2 dropout layers (body, rate 0.5) are before batch norms" in text
    assert "set model.args.norm to instance or group, keep dropout to the head" in text
    assert "train.recalibrate_norms=true" in text
    assert said(cnn(dropout=body), recalibrates=True) == ""
    assert said(cnn(dropout=body, norm="group", groups=4)) == said(cnn()) == ""
    assert said(cnn(dropout=ClassifierDropout(rate=0.0, places=("body",)))) == ""
    assert "encoder, bottleneck, decoder" in said(build_model("unet3d", UNet3dArgs(widths=(4, 8), norm="batch"), 1, 2))
    nothing = "train.recalibrate_norms=true: this network has no batch norm, so there is nothing to recalibrate"
    assert nothing in said(build_model("unet3d", UNet3dArgs(widths=(4, 8)), 1, 2), recalibrates=True)
