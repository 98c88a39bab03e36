"""ResNet in 3-D for classification: residual blocks of ConvBlocks, configurable to the published variants."""

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

import ops
from configs.schema.model import ResNet3dArgs
from models.layers.blocks import ConvBlock, he_normal
from models.layers.dropout import make_dropout
from models.layers.heads import Head, check_input, run_blocks
from models.layers.norms import make_norm

BLOCKS_PER_STAGE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions and a shortcut: y = ReLU(conv2(conv1(x)) + shortcut(x)).

    Dropout lies between the convolutions, as in wide ResNets (Zagoruyko and Komodakis 2016, arXiv:1605.07146):
    the shortcut keeps all channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, args: ResNet3dArgs) -> None:
        super().__init__()
        norm = partial(make_norm, args.norm, width, args.groups)
        drop, position = make_dropout(args.dropout, "body"), args.dropout.position
        self.conv1 = ConvBlock(
            in_channels, width, 3, stride, dilation, norm=norm(), act=nn.ReLU(), drop=drop, position=position
        )
        self.conv2 = ConvBlock(width, width, 3, 1, dilation, norm=norm(), act=nn.ReLU())
        self.shortcut = make_shortcut(in_channels, width, stride, args)

    def __call__(self, x: mx.array) -> mx.array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x), shortcut)


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3 and 1×1×1 convolutions, the last to four times the width, and a shortcut.

    The stride is the 3×3×3 convolution's, as in torchvision, MedicalNet and MONAI. Dropout follows it.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, args: ResNet3dArgs) -> None:
        super().__init__()
        norm = partial(make_norm, args.norm, groups=args.groups)
        drop, position = make_dropout(args.dropout, "body"), args.dropout.position
        self.conv1 = ConvBlock(in_channels, width, 1, norm=norm(width), act=nn.ReLU())
        self.conv2 = ConvBlock(
            width, width, 3, stride, dilation, norm=norm(width), act=nn.ReLU(), drop=drop, position=position
        )
        self.conv3 = ConvBlock(width, 4 * width, 1, norm=norm(4 * width), act=nn.ReLU())
        self.shortcut = make_shortcut(in_channels, 4 * width, stride, args)

    def __call__(self, x: mx.array) -> mx.array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


class PadShortcut(nn.Module):
    """Shortcut A: every stride-th voxel, and zeros in the channels that x lacks."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = out_channels - in_channels, stride

    def __call__(self, x: mx.array) -> mx.array:
        s = self.stride
        return mx.pad(x[:, ::s, ::s, ::s], [(0, 0)] * 4 + [(0, self.extra_channels)])


class ResNet3d(nn.Module):
    """ResNet 10, 18, 34 or 50 (He et al. 2016, arXiv:1512.03385) with 3-D convolutions.

    model(x) maps (N, D, H, W, in_channels), float32 or bfloat16, to logits (N, num_outputs), float32. No
    gradient reaches x. Convolutions are drawn He-normal by fan-out, as torchvision's. `features(x)` is what the
    head pools.
    """

    def __init__(self, in_channels: int, num_outputs: int, args: ResNet3dArgs) -> None:
        super().__init__()
        self.conv1 = ConvBlock(
            in_channels,
            args.width,
            args.stem_kernel,
            args.stem_stride,
            norm=make_norm(args.norm, args.width, args.groups),
            act=nn.ReLU(),
            input_grad=False,
        )
        self.max_pool = args.max_pool
        block: Callable[..., BasicBlock | Bottleneck] = Bottleneck if args.depth == 50 else BasicBlock
        expansion = Bottleneck.expansion if args.depth == 50 else BasicBlock.expansion
        channels = args.width
        for i, count in enumerate(BLOCKS_PER_STAGE[args.depth]):
            width, stride, dilation = args.width << i, args.layer_strides[i], args.layer_dilations[i]
            blocks = [block(channels, width, stride, dilation, args)]
            channels = width * expansion
            blocks += [block(channels, width, 1, dilation, args) for _ in range(count - 1)]
            self[f"layer{i + 1}"] = blocks
        self.head = Head(channels, num_outputs, make_dropout(args.dropout, "head"))
        self.recompute = args.recompute
        self.in_channels = in_channels
        he_normal(self, mode="fan_out")

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.features(x))

    def dropout_paths(self) -> dict[str, tuple[str, ...]]:
        """As `dropout.kept_shares` takes it; the shortcuts keep all channels."""
        return {"body": ("body",), "head": ("head",)}

    def features(self, x: mx.array) -> mx.array:
        """Return the last convolution's output, (N, D', H', W', channels)."""
        check_input("resnet3d", x, self.in_channels)
        x = self.conv1(x)
        if self.max_pool:
            x = ops.max_pool3d(x, 3, 2, 1)
        blocks = [*self.layer1, *self.layer2, *self.layer3, *self.layer4]
        return run_blocks(blocks, x, self.recompute and self.training)


def make_shortcut(in_channels: int, out_channels: int, stride: int, args: ResNet3dArgs) -> nn.Module | None:
    """Return what brings a block's input to the shape of its output; None where it has that shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    if args.shortcut == "A":
        return PadShortcut(in_channels, out_channels, stride)
    norm = make_norm(args.norm, out_channels, args.groups)
    return ConvBlock(in_channels, out_channels, 1, stride, norm=norm, bias=args.shortcut_bias)
