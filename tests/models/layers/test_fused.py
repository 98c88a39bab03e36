from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from engine.training.step import random_key, set_random_key
from models import build_model
from models.layers.blocks import ConvBlock
from models.layers.dropout import channel_mask
from models.layers.fused import apply_conv, apply_conv_transpose, norm_act_drop, norm_act_split
from models.layers.norms import BatchNorm3d, make_norm
from models.unet3d import Dropout, UNet3dArgs

SHAPE = (2, 3, 4, 5, 16)


def _norm(kind: str) -> nn.Module | None:
    norm = make_norm(kind, 16, groups=4)
    if norm is not None:
        mx.random.seed(1)
        norm.weight, norm.bias = mx.random.normal((16,)), mx.random.normal((16,))
    return norm


class _FlatBatchNorm(nn.BatchNorm):
    """MLX's own batch norm, which refuses five axes."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x.reshape(-1, 16)).reshape(x.shape)


def _one_by_one(
    norm: Any, act: Any, drop: Any, x: mx.array, residual: mx.array | None, position: Any = "after_activation"
) -> mx.array:
    """The layers of a block as MLX itself runs them."""
    if isinstance(norm, BatchNorm3d):
        plain = _FlatBatchNorm(16)
        plain.weight, plain.bias = norm.weight, norm.bias
        norm = plain
    key = random_key()
    block = ConvBlock(16, 16, norm=norm, act=act, drop=drop, position=position)
    set_random_key(key)  # as it was before the block drew its weights
    block.conv, block.fused = nn.Identity(), False
    return block(x, residual)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["after_activation", "after_norm", "before_norm"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize("kind", ["instance", "batch", "group", "none"])
def test_fused_layers_equal_layers_one_by_one(
    form: str, kind: str, act: nn.Module | None, with_residual: bool, position: Any
) -> None:
    mx.random.seed(0)
    x = 2 * mx.random.normal(SHAPE) + 1
    residual = mx.random.normal(SHAPE) if with_residual else None
    for drop in (None, nn.Dropout3d(0.4), nn.Dropout(0.4)):
        mx.random.seed(7)
        expected = _one_by_one(_norm(kind), act, drop, x, residual, position)
        mx.random.seed(7)
        y = norm_act_drop(_norm(kind), act, drop, x, residual, position)
        # The same random numbers: the same channels, or voxels, are dropped.
        np.testing.assert_array_equal(np.array(y == 0), np.array(expected == 0))
        np.testing.assert_allclose(np.array(y), np.array(expected), rtol=0, atol=4e-5)
        if drop is None:
            continue
        mx.random.seed(7)
        dropped, whole = norm_act_split(_norm(kind), act, drop, x, residual, position)
        np.testing.assert_allclose(np.array(dropped), np.array(expected), rtol=0, atol=4e-5)
        without = _one_by_one(_norm(kind), act, None, x, residual)
        np.testing.assert_allclose(np.array(whole), np.array(without), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("drop", [nn.Dropout3d(0.5), nn.Dropout(0.5)])
@pytest.mark.parametrize("act", [nn.LeakyReLU(), nn.GELU()])
@pytest.mark.parametrize("kind", ["instance", "batch", "group"])
@pytest.mark.parametrize("position", ["after_activation", "after_norm", "before_norm"])
def test_gradients_of_each_position_are_those_of_its_layers(
    form: str, kind: str, act: nn.Module, drop: nn.Module, position: Any
) -> None:
    mx.random.seed(0)
    x, residual, g = (mx.random.normal(SHAPE) for _ in range(3))
    results = []
    for run in (_one_by_one, norm_act_drop):
        norm: Any = _norm(kind)

        def loss(weight: mx.array, bias: mx.array, x: mx.array, r: mx.array, run: Any = run, norm: Any = norm) -> Any:
            norm.weight, norm.bias = weight, bias
            mx.random.seed(7)
            return (run(norm, act, drop, x, r, position) * g).sum()

        results.append(mx.grad(loss, argnums=(0, 1, 2, 3))(norm.weight, norm.bias, x, residual))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=2e-4)


def test_instance_norm_cancels_the_scale_and_makes_dropped_channels_the_activation_of_its_bias(form: str) -> None:
    """What before_norm is under the norm that nnU-Net has: its survivors are not scaled up, its dropped not zero."""
    mx.random.seed(0)
    norm, act, drop = _norm("instance"), nn.LeakyReLU(0.2), nn.Dropout3d(0.5)
    x = mx.random.normal(SHAPE) + 1
    mx.random.seed(7)
    mask = np.array(channel_mask(drop, x))
    mx.random.seed(7)
    y = np.array(norm_act_drop(norm, act, drop, x, None, "before_norm"))
    without = np.array(norm_act_drop(norm, act, None, x))
    constant = np.broadcast_to(np.array(act(norm.bias)), SHAPE)
    kept = np.broadcast_to(mask[:, None, None, None] > 0, SHAPE)
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(y[kept], without[kept], atol=1e-4)  # 1 / (1 - p) is gone
    np.testing.assert_allclose(y[~kept], constant[~kept], atol=1e-6)
    assert np.abs(y[~kept]).min() > 0


def test_a_mask_after_the_norm_is_one_after_a_piecewise_linear_activation(form: str) -> None:
    mx.random.seed(0)
    x = mx.random.normal(SHAPE)
    for drop in (nn.Dropout3d(0.5), nn.Dropout(0.5)):
        outputs = []
        for act in (nn.LeakyReLU(), nn.GELU()):
            for position in ("after_activation", "after_norm"):
                mx.random.seed(7)
                outputs.append(norm_act_drop(_norm("instance"), act, drop, x, None, position))  # type: ignore[arg-type]
        assert mx.array_equal(outputs[0], outputs[1])
        assert not mx.allclose(outputs[2], outputs[3], atol=1e-2)


def test_a_residual_keeps_all_channels_and_a_transposed_convolution_its_values(form: str) -> None:
    """Dropout is in the branch: where it drops, only the shortcut is left."""
    mx.random.seed(0)
    x, residual = mx.random.normal(SHAPE), mx.random.normal(SHAPE)
    block = ConvBlock(16, 16, norm=_norm("instance"), act=nn.ReLU(), drop=nn.Dropout3d(1 - 1e-6))
    np.testing.assert_array_equal(np.array(block(x, residual)), np.array(nn.relu(residual)))
    conv = nn.ConvTranspose3d(16, 8, (1, 2, 2), (1, 2, 2))
    conv.bias = mx.random.normal((8,))
    x = mx.random.normal(SHAPE)
    np.testing.assert_allclose(np.array(apply_conv_transpose(conv, x)), np.array(conv(x)), atol=1e-5)


@pytest.mark.parametrize("kind", ["instance", "batch", "group", "none"])
def test_bfloat16_stays_bfloat16(form: str, kind: str) -> None:
    mx.random.seed(0)
    x = mx.random.normal(SHAPE)
    conv = nn.Conv3d(16, 16, 3, padding=1)
    for act in (nn.LeakyReLU(), nn.GELU()):
        y = norm_act_drop(_norm(kind), act, nn.Dropout3d(0.0), apply_conv(conv, x))
        half = norm_act_drop(_norm(kind), act, nn.Dropout3d(0.0), apply_conv(conv, x.astype(mx.bfloat16)))
        assert half.dtype == mx.bfloat16
        np.testing.assert_allclose(np.array(half.astype(mx.float32)), np.array(y), rtol=0.05, atol=0.05)
    assert conv.weight.dtype == mx.float32


def changed_to(layer: type[nn.Module], change: Callable[[mx.array], mx.array]) -> type[nn.Module]:
    """A kind of layer whose output is changed."""
    return type("Changed", (layer,), {"__call__": lambda self, x: change(layer.__call__(self, x))})


Nothing = changed_to(nn.Dropout3d, mx.zeros_like)


def test_replaced_layers_are_the_ones_that_run(form: str) -> None:
    mx.random.seed(0)
    x = mx.random.normal((2, 4, 4, 4, 16))

    def block() -> ConvBlock:
        mx.random.seed(1)
        return ConvBlock(16, 16, norm=nn.InstanceNorm(16, affine=True), act=nn.LeakyReLU(), drop=nn.Dropout3d(0.0))

    plain = np.array(block()(x))
    changed = block()
    changed.norm = changed_to(nn.InstanceNorm, lambda y: 2 * y)(16, affine=True)
    np.testing.assert_allclose(np.array(changed(x)), 2 * plain, atol=1e-5)
    changed = block()
    changed.act = changed_to(nn.LeakyReLU, lambda y: -y)()
    np.testing.assert_allclose(np.array(changed(x)), -plain, atol=1e-5)
    changed = block()
    changed.drop = Nothing(0.5)
    assert not np.array(changed(x)).any()
    changed = block()
    changed.conv = changed_to(nn.Conv3d, mx.ones_like)(16, 16, 3, padding=1)
    changed.norm = changed.act = None
    assert (np.array(changed(x)) == 1).all()
    changed = block()
    changed.norm = nn.GroupNorm(4, 16)  # MLX's own grouping, not PyTorch's
    expected = nn.leaky_relu(changed.norm(apply_conv(changed.conv, x)))
    np.testing.assert_allclose(np.array(changed(x)), np.array(expected), atol=1e-5)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("position", ["after_activation", "after_norm", "before_norm"])
def test_a_block_written_out_draws_and_keeps_what_mlx_layers_do(form: str, position: Any, with_residual: bool) -> None:
    """The lines of `ConvBlock.__call__` against layers called here, Dropout3d among them."""
    mx.random.seed(0)
    x, residual = mx.random.normal(SHAPE), mx.random.normal(SHAPE) if with_residual else None
    norm, act, drop = nn.InstanceNorm(16, affine=True), nn.GELU(), nn.Dropout3d(0.5)
    block = ConvBlock(16, 16, norm=norm, act=act, drop=drop, position=position)
    block.fused = False
    mx.random.seed(7)
    y = block(x, residual)
    mx.random.seed(7)
    v = block.conv(x)
    if position == "before_norm":
        v = norm(drop(v))
    elif position == "after_norm" or with_residual:
        v = drop(norm(v))
    else:
        v = norm(v)
    v = act(v if residual is None else v + residual)
    v = drop(v) if position == "after_activation" and not with_residual else v
    np.testing.assert_allclose(np.array(y), np.array(v), rtol=0, atol=2e-5)


def test_replacement_in_a_network_runs_and_an_unknown_norm_is_refused() -> None:
    args = UNet3dArgs(widths=(8, 16), dropout=Dropout(kind="none"))
    model = build_model("unet3d", args, 1, 2)
    x = mx.random.normal((1, 8, 8, 8, 1))
    before = np.array(model(x))
    model.decoder[0].blocks[1].drop = Nothing(0.5)  # the head then sees zeros
    after = np.array(model(x))
    assert np.abs(before).max() > 0.1
    np.testing.assert_array_equal(after, np.zeros_like(after))
    with pytest.raises(ValueError, match="norm 'layer' is unknown: expected instance, batch, group or none"):
        make_norm("layer", 8)


def test_batch_norm_keeps_the_statistics_that_mlx_keeps(form: str) -> None:
    mx.random.seed(0)
    ours, plain = BatchNorm3d(16), nn.BatchNorm(16)
    for _ in range(3):
        x = 2 * mx.random.normal(SHAPE) + 1
        np.testing.assert_allclose(np.array(ours(x)), np.array(plain(x.reshape(-1, 16)).reshape(SHAPE)), atol=2e-5)
    np.testing.assert_allclose(np.array(ours.running_mean), np.array(plain.running_mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(ours.running_var), np.array(plain.running_var), rtol=1e-5)
    assert "running_mean" not in ours.trainable_parameters()

    ours.eval(), plain.eval()
    statistics = np.array(ours.running_mean)
    np.testing.assert_allclose(np.array(ours(x)), np.array(plain(x.reshape(-1, 16)).reshape(SHAPE)), atol=2e-5)
    np.testing.assert_array_equal(np.array(ours.running_mean), statistics)
    ours.train()
    with pytest.raises(ValueError, match="batch norm in training needs more than one value per channel; got 1"):
        ours(mx.ones((1, 1, 1, 1, 16)))
