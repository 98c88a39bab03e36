"""Ordinary layers run by faster operators, wherever they are exactly the layers that those know.

Each function takes MLX layers and returns what calling them one after the other returns. A layer of any
other type, a subclass included, is called as it is: whoever replaces a layer of a block gets the replacement.
"""

import mlx.core as mx
import mlx.nn as nn

import ops
from models.dropout import apply_dropout, channel_mask
from models.norms import BatchNorm3d


def apply_conv(conv: nn.Module, x: mx.array, input_grad: bool = True) -> mx.array:
    """Return conv(x) in x's dtype; float32 weights are cast to it.

    input_grad=False, for a network's first layer: the gradient with respect to x is not computed. Nor is that of
    a frozen weight.
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
) -> mx.array:
    """Return drop(act(norm(x) + residual)) in x's dtype, as one operator where the layers' types allow.

    Instance, batch and group norm are known, with ReLU and leaky ReLU, and `nn.Dropout3d`; each of the three
    may be None. Another activation runs after the fused norm, another norm before the rest.
    """
    slope = _slope(act)
    drops_channels = type(drop) is nn.Dropout3d
    if not _is_known(norm):
        y = x if norm is None else norm(x).astype(x.dtype)
        y = y if residual is None else y + residual
        y = y if act is None else act(y).astype(x.dtype)
        return apply_dropout(drop, y)
    if slope is None:
        y = _fused(norm, x, None, 1.0, residual)
        return apply_dropout(drop, act(y).astype(x.dtype))  # type: ignore[misc]
    mask = channel_mask(drop, x) if drops_channels else None
    y = _fused(norm, x, mask, slope, residual)
    return y if drops_channels else apply_dropout(drop, y)


def _slope(act: nn.Module | None) -> float | None:
    """Slope below zero of a piecewise linear activation; None for any other."""
    if act is None:
        return 1.0
    if type(act) is nn.ReLU:
        return 0.0
    if type(act) is nn.LeakyReLU and 0 <= act._negative_slope <= 1:
        return act._negative_slope
    return None


def _is_known(norm: nn.Module | None) -> bool:
    if norm is not None and type(norm) is nn.GroupNorm:
        return norm.pytorch_compatible  # MLX's other grouping is a different function
    return type(norm) in (nn.InstanceNorm, BatchNorm3d)


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
