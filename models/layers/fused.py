"""MLX's layers run by the faster operators of `ops`, where these support exactly those layers.

Each function takes MLX layers and returns what calling them one after the other returns. A layer of another type, a
subclass included, is called as it is: a block whose layer was replaced runs the replacement.
"""

import mlx.core as mx
import mlx.nn as nn

import ops
from configs.schema.model import DropoutPosition
from models.layers.dropout import apply_dropout, channel_mask
from models.layers.norms import BatchNorm3d


def apply_conv(conv: nn.Module, x: mx.array, input_grad: bool = True) -> mx.array:
    """Return conv(x) in x's dtype; float32 weights are cast to it.

    input_grad=False, for a network's first layer, computes no gradient for x. A frozen weight gets none either.
    """
    if type(conv) is not nn.Conv3d:
        return conv(x).astype(x.dtype)
    return ops.conv3d(
        x,
        conv.weight,
        conv.get("bias"),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        input_grad=input_grad,
        weight_grad="weight" not in conv._no_grad,
    )


def apply_conv_transpose(conv: nn.Module, x: mx.array) -> mx.array:
    """Return conv(x) in x's dtype, conv a transposed convolution; float32 weights are cast to it."""
    if type(conv) is not nn.ConvTranspose3d or conv.dilation not in (1, (1, 1, 1)):
        return conv(x).astype(x.dtype)
    return ops.conv_transpose3d(
        x,
        conv.weight,
        conv.get("bias"),
        stride=conv.stride,
        padding=conv.padding,
        output_padding=conv.output_padding,
        weight_grad="weight" not in conv._no_grad,
    )


def norm_act_drop(
    norm: nn.Module | None,
    act: nn.Module | None,
    drop: nn.Module | None,
    x: mx.array,
    residual: mx.array | None = None,
    position: DropoutPosition = "after_activation",
) -> mx.array:
    """Return act(norm(x) + residual) with dropout, in x's dtype, as one operator where the layers' types allow.

    Dropout is where `position` says, and before the sum where there is a residual, which keeps all channels:
    act(drop(norm(x)) + residual), or act(norm(drop(x)) + residual) with before_norm.

    Supported are instance, batch and group norm, ReLU and leaky ReLU, and `nn.Dropout3d`; each may be None. Another
    activation runs after the fused norm, another norm before the rest. Before a norm, channels' masks fold, on the CPU,
    only into instance norm's weight: other norms' statistics are over several channels or samples.
    """
    position, slope = effective_position(norm, act, position), _slope(act)
    if position == "before_norm":
        if type(drop) is nn.Dropout3d and type(norm) is nn.InstanceNorm and ops.active() == "onednn":
            y = _normalise_kept(norm, drop, x, 1.0 if slope is None else slope, residual)
            return call(act, y) if slope is None else y
        x, drop = apply_dropout(drop, x), None
    before_sum = drop is not None and (residual is not None or position == "after_norm")
    drops_channels = type(drop) is nn.Dropout3d
    if not _is_known(norm) or (before_sum and not drops_channels):
        y = _fused(norm, x, None, 1.0, None) if _is_known(norm) else call(norm, x)
        if before_sum:
            y, drop = apply_dropout(drop, y), None
        return apply_dropout(drop, call(act, y if residual is None else y + residual))
    folds = drops_channels and (slope is not None or before_sum)
    mask = channel_mask(drop, x) if folds else None
    y = _fused(norm, x, mask, 1.0 if slope is None else slope, residual)
    y = call(act, y) if slope is None else y
    return y if folds else apply_dropout(drop, y)


def norm_act_split(
    norm: nn.Module | None,
    act: nn.Module | None,
    drop: nn.Module,
    x: mx.array,
    residual: mx.array | None = None,
    position: DropoutPosition = "after_activation",
) -> tuple[mx.array, mx.array]:
    """Return what `norm_act_drop` returns, and what it returns without dropout, of one normalisation if it can be.

    Dropout before a norm changes what is normalised: the norm then runs twice.
    """
    if residual is None and effective_position(norm, act, position) == "after_activation":
        y = norm_act_drop(norm, act, None, x)
        return apply_dropout(drop, y), y
    if position != "before_norm":
        x, norm = norm_act_drop(norm, None, None, x), None
    return norm_act_drop(norm, act, drop, x, residual, position), norm_act_drop(norm, act, None, x, residual)


def effective_position(norm: nn.Module | None, act: nn.Module | None, position: DropoutPosition) -> DropoutPosition:
    """Return after_activation for what equals it: a mask, zero or positive, commutes with a (leaky) ReLU."""
    if position == "before_norm" and norm is None:
        position = "after_norm"
    return "after_activation" if position == "after_norm" and _slope(act) is not None else position


def _slope(act: nn.Module | None) -> float | None:
    """Return the slope below zero of a piecewise linear activation; None for others."""
    if act is None:
        return 1.0
    if type(act) is nn.ReLU:
        return 0.0
    if type(act) is nn.LeakyReLU and 0 <= act._negative_slope <= 1:
        return act._negative_slope
    return None


def _is_known(norm: nn.Module | None) -> bool:
    if norm is not None and type(norm) is nn.GroupNorm:
        return norm.pytorch_compatible  # MLX's other grouping is another function
    return type(norm) in (nn.InstanceNorm, BatchNorm3d)


def call(layer: nn.Module | None, x: mx.array) -> mx.array:
    """Return layer(x) in x's dtype; None is the identity."""
    return x if layer is None else layer(x).astype(x.dtype)


def _normalise_kept(
    norm: nn.InstanceNorm, drop: nn.Dropout3d, x: mx.array, slope: float, residual: mx.array | None
) -> mx.array:
    """Return act(norm(drop(x)) + residual) without a pass for the mask.

    A channel scaled by 1/(1-p) is normalised as it is without, against an eps of (1-p)² its own; a dropped one
    keeps only the bias.
    """
    weight, eps, mask = norm.get("weight"), norm.eps, channel_mask(drop, x)
    if mask is not None:
        kept = (mask > 0).astype(mx.float32)  # (N, C)
        weight, eps = kept if weight is None else weight * kept, eps * float(drop._p_1) ** 2
    return ops.norm_act_dropout(x, weight, norm.get("bias"), eps=eps, slope=slope, residual=residual)[0]


def _fused(norm: nn.Module, x: mx.array, mask: mx.array | None, slope: float, residual: mx.array | None) -> mx.array:
    if isinstance(norm, BatchNorm3d):
        return norm.normalise(x, mask, slope, residual)
    is_group = isinstance(norm, nn.GroupNorm)
    y, _, _ = ops.norm_act_dropout(
        x,
        norm.get("weight"),
        norm.get("bias"),
        mask,
        norm="group" if is_group else "instance",
        groups=norm.num_groups if is_group else 1,
        eps=norm.eps,
        slope=slope,
        residual=residual,
    )
    return y
