from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from pydantic import ValidationError

import ops
from models import build_model, count_parameters
from models.layers.dropout import apply_dropout, kept_shares
from models.unet3d import Dropout, Resize, UNet3dArgs
from tests.engine.doubles import assert_same, parameters_of

PLACES = ("encoder", "bottleneck", "decoder", "skip")


def _build(seed: int = 0, in_channels: int = 1, **args: object) -> nn.Module:
    mx.random.seed(seed)
    return build_model("unet3d", UNet3dArgs(**{"widths": (8, 16, 24), **args}), in_channels, 3)


def test_names_and_number_of_parameters() -> None:
    names = parameters_of(_build(residual=True, widths=(8, 16)))
    assert set(names) == {
        f"{level}.{part}.{rest}"
        for level in ("encoder.0", "bottleneck", "decoder.0")
        for part in ("blocks.0", "blocks.1", "shortcut")
        for rest in ("conv.weight", "norm.weight", "norm.bias")
    } | {"up.0.weight", "up.0.bias", "heads.0.weight", "heads.0.bias"}
    assert names["encoder.0.blocks.1.conv.weight"].shape == (8, 3, 3, 3, 8)
    assert "encoder.0.blocks.1.conv.bias" in parameters_of(_build(norm="none"))
    model = _build(widths=(4, 8), convolutions=1)
    by_hand = 27 * 4 + 8 + 27 * 4 * 8 + 16 + (8 * 8 * 4 + 4) + 27 * 8 * 4 + 8 + (4 * 3 + 3)
    assert count_parameters(model) == by_hand
    assert count_parameters(_build(widths=(4, 8), convolutions=1, norm="batch")) == by_hand  # no statistics
    model.freeze()
    assert count_parameters(model) == 0


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """Cells of a dropout ablation start from the same weights."""
    reference = parameters_of(_build())
    for dropout in (Dropout(kind="none"), Dropout(kind="element", rate=0.5), Dropout(rate=0.9, places=PLACES)):
        assert_same(parameters_of(_build(dropout=dropout)), reference)
    assert (parameters_of(_build(seed=1))["up.0.weight"] != reference["up.0.weight"]).any()


def test_weights_are_he_normal() -> None:
    model = _build(widths=(32, 64), activation="leaky_relu")
    for name, fan in (("bottleneck.blocks.1.conv.weight", 27 * 64), ("up.0.weight", 64)):
        weight = parameters_of(model)[name]
        assert weight.std() == pytest.approx(np.sqrt(2 / (1 + 0.01**2) / fan), rel=0.03), name
        assert np.abs(weight).max() > 3.5 * weight.std()  # normal, not uniform
    weight = parameters_of(_build(widths=(32, 64)))["up.0.weight"]
    # PyTorch's kaiming_normal_ takes the second axis of (in, out, 2, 2, 2) for inputs, and counts all taps.
    nnunets = 2 / (1 + 0.01**2) / (32 * 8)
    assert weight.var() == pytest.approx(4 * nnunets, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"residual": True, "upsampling": "resize", "norm": "group", "activation": "gelu"},
        {"norm": "none", "activation": "silu", "convolutions": 1},
        {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 3)), "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "norm": "batch"},
        {"widths": (8,)},
    ],
)
def test_both_forms_agree(args: dict[str, object]) -> None:
    x = mx.array(np.random.default_rng(0).standard_normal((2, 4, 8, 12, 2), dtype=np.float32))
    results = []
    for form in ("mlx", "onednn"):
        try:
            ops.choose(form)
        except OSError as error:
            pytest.skip(str(error))
        model = _build(in_channels=2, **args)
        loss, gradients = nn.value_and_grad(model, lambda x, model=model: (model(x) - 1).square().mean())(x)
        results.append({"loss": np.array(loss), **{k: np.array(v) for k, v in tree_flatten(gradients)}})
    ops.choose("auto")
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, atol=1e-4 * np.abs(value).max() + 1e-6, err_msg=name)


ALL = {"encoder": 0.8, "skip": 0.8, "bottleneck": 0.8, "decoder": 0.8}


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        (("encoder",), {"encoder": 0.8, "skip": 0.8, "bottleneck": 1, "decoder": 1}),  # the encoder's is on both
        (("skip",), {"encoder": 1, "skip": 0.8, "bottleneck": 1, "decoder": 1}),
        (("encoder", "skip"), {"encoder": 0.8, "skip": 0.8, "bottleneck": 1, "decoder": 1}),
        (PLACES, ALL),
    ],
)
@pytest.mark.parametrize("position", ["after_activation", "after_norm", "before_norm"])
@pytest.mark.parametrize("args", [{}, {"residual": True}, {"activation": "gelu"}])
def test_each_path_has_one_mask(form: str, places: Any, kept: dict[str, float], position: Any, args: Any) -> None:
    """What arrives at the decoder, and at the next level, as the dose in sweep.json has it."""
    dropout = Dropout(rate=0.2, places=places, position=position)
    model = _build(widths=(256, 8), convolutions=1, dropout=dropout, **args)
    assert kept_shares(model) == kept
    x = mx.random.normal((1, 4, 4, 4, 1))
    level, y = model.encoder[0], model.encoder[0](x)
    down, skip = y if level.splits else (y, y)
    skip = apply_dropout(model.skip[0], skip) if model.skip else skip
    level.eval()
    whole = level(x)
    whole = whole[0] if level.splits else whole
    residual = level.shortcut(x) if level.residual else mx.zeros_like(whole)
    for y, share in ((down, kept["encoder"]), (skip, kept["skip"])):
        nothing = mx.zeros_like(y) if "skip" in places and y is skip else nn.leaky_relu(residual)
        is_kept = np.abs(np.array(y - nothing)).max((0, 1, 2, 3)) > 1e-6
        assert is_kept.mean() == pytest.approx(share, abs=0.075)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_split_level_counts_its_batch_once(norm: str) -> None:
    kwargs = {"widths": (8, 16), "norm": norm, "activation": "gelu"}
    split = _build(dropout=Dropout(rate=0.5, places=("encoder", "skip"), position="after_norm"), **kwargs)
    plain = _build(dropout=Dropout(kind="none"), **kwargs)
    x = mx.random.normal((2, 4, 4, 4, 1))
    split.encoder[0].blocks[0].drop = None
    dropped, whole = split.encoder[0](x)
    np.testing.assert_allclose(np.array(whole), np.array(plain.encoder[0](x)), atol=1e-5)
    assert not mx.allclose(dropped, whole, atol=0.1)
    for name, value in parameters_of(plain.encoder[0]).items():
        np.testing.assert_allclose(parameters_of(split.encoder[0])[name], value, rtol=1e-5, err_msg=name)


def test_residual_levels_drop_in_the_branch_alone(form: str) -> None:
    model = _build(residual=True, dropout=Dropout(rate=0.999999, places=("encoder",)))
    x = mx.random.normal((1, 4, 4, 4, 1))
    level = model.encoder[0]
    np.testing.assert_allclose(np.array(level(x)), np.array(nn.leaky_relu(level.shortcut(x))), atol=1e-6)


def test_strides_and_kernels_are_those_asked_for() -> None:
    model = _build(strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (5, 3, 3)))
    assert model.total_stride == (2, 4, 4)
    assert model.encoder[0].blocks[0].conv.weight.shape[1:4] == (1, 3, 3)
    assert model.bottleneck.blocks[0].conv.weight.shape[1:4] == (5, 3, 3)
    assert model.bottleneck.blocks[0].conv.stride == (2, 2, 2)
    x = mx.random.normal((1, 2, 8, 4, 1))
    assert model(x).shape == (1, 2, 8, 4, 3)
    x = model.encoder[1](model.encoder[0](x))
    assert x.shape == (1, 2, 4, 2, 16)
    assert model.bottleneck(x).shape == (1, 1, 2, 1, 24)


def test_deep_supervision_gives_all_levels_in_training() -> None:
    model = _build(deep_supervision=True, dropout=Dropout(kind="none"))
    x = mx.random.normal((1, 8, 8, 8, 1))
    logits = model(x)
    assert [y.shape for y in logits] == [(1, 8, 8, 8, 3), (1, 4, 4, 4, 3)]
    model.eval()
    np.testing.assert_allclose(np.array(model(x)), np.array(logits[0]), atol=1e-6)


def test_size_that_does_not_divide_is_refused() -> None:
    model = _build()
    message = r"has 10 voxels, which is not divisible by 4 \(the product of its strides\); pad it to 12 or crop it to 8"
    with pytest.raises(ValueError, match=rf"axis H of the input {message}"):
        model(mx.zeros((1, 8, 10, 8, 1)))
    with pytest.raises(ValueError, match=r"axis W of the input has 2 voxels, .* pad it to 4$"):
        model(mx.zeros((1, 8, 8, 2, 1)))
    with pytest.raises(ValueError, match=r"unet3d takes \(N, D, H, W, 1\) arrays; got shape \(1, 8, 8, 8, 2\)"):
        model(mx.zeros((1, 8, 8, 8, 2)))


def test_resize_interpolates_its_convolution(form: str) -> None:
    layer = Resize(4, 2, (2, 2, 2))
    gain = np.array(layer.conv.weight.sum((1, 2, 3, 4)))  # (2,)
    constant = np.array(layer(mx.ones((1, 2, 2, 2, 4))))
    np.testing.assert_allclose(constant, np.broadcast_to(gain, (1, 4, 4, 4, 2)), atol=1e-6)
    ramp = mx.broadcast_to(mx.arange(2.0)[:, None, None, None], (1, 2, 1, 1, 4))
    y = np.array(layer(ramp))[0, :, 0, 0, 0]  # halves of voxels, edges held
    np.testing.assert_allclose(y, np.array([0, 0.25, 0.75, 1]) * gain[0], atol=1e-6)


def test_bfloat16_gives_float32_logits_and_gradients(form: str) -> None:
    model = _build(dropout=Dropout(kind="none"), deep_supervision=True)
    x = mx.random.normal((1, 8, 8, 8, 1))
    seen = []

    class Spy(nn.Identity):
        def __call__(self, x: mx.array) -> mx.array:
            seen.append(x.dtype)
            return x

    expected = np.array(model(x)[0])
    model.decoder[0].blocks[1].drop = Spy()
    logits = model(x.astype(mx.bfloat16))
    assert seen == [mx.bfloat16]
    assert [y.dtype for y in logits] == [mx.float32, mx.float32]
    np.testing.assert_allclose(np.array(logits[0]), expected, atol=0.05 * np.abs(expected).max())
    _, gradients = nn.value_and_grad(model, lambda x: model(x)[0].square().mean())(x.astype(mx.bfloat16))
    assert {g.dtype for _, g in tree_flatten(gradients)} == {mx.float32}


def test_evaluation_changes_nothing() -> None:
    model = _build(norm="batch", dropout=Dropout(rate=0.5))
    model.eval()
    before = parameters_of(model)
    x = mx.random.normal((2, 8, 8, 8, 1))
    np.testing.assert_array_equal(np.array(model(x)), np.array(model(x)))
    assert_same(parameters_of(model), before)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValidationError, match="strides has 2 entries; widths has 3 levels"):
        UNet3dArgs(strides=((1, 1, 1), (2, 2, 2)))
    with pytest.raises(ValidationError, match="places"):
        Dropout(places=("head",))
    with pytest.raises(ValueError, match=r"model.name='unet' is unknown: expected one of unet3d, cnn3d, resnet3d"):
        build_model("unet", UNet3dArgs(), 1, 2)
    message = r"position=before_norm with encoder and skip .* batch norm has statistics for one of them; use norm=inst"
    with pytest.raises(ValidationError, match=message):
        UNet3dArgs(norm="batch", dropout=Dropout(position="before_norm", places=("encoder", "skip")))
