"""ResNet in 3-D for classification: residual blocks of ConvBlocks, configurable to the published variants."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn
from pydantic import model_validator

import ops
from configs.schema.model import Convolution, NetworkArgs, Size, shrink
from configs.schema.types import Count, Few, FewTriple, Width
from models.layers.blocks import ConvBlock, he_normal
from models.layers.dropout import make_dropout
from models.layers.heads import ClassifierDropout, Head, check_input, run_blocks
from models.layers.norms import make_norm

BLOCKS_PER_STAGE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
# (depth, width) to propose from so many training cases on: deeper and wider networks need more.
PROPOSED = ((0, (10, 16)), (250, (10, 32)), (800, (18, 32)), (5000, (18, 64)), (20_000, (34, 64)))
SHORT = 40  # voxels along an axis: up to there proposals leave out the early strides


class ResNet3dArgs(NetworkArgs):
    """ResNet (He et al. 2016) in 3-D, with the strides of the 2-D original.

    MedicalNet's (Chen et al. 2019): `layer_strides: [1, 2, 1, 1]`, `layer_dilations: [1, 1, 2, 4]`, and
    `shortcut: A` for depth 18 and 34. MONAI's default: `stem_stride: [1, 1, 1]`, `shortcut_bias: true`.
    For volumes of about 32 voxels a side leave the early strides out: `stem_kernel: [3, 3, 3]`,
    `stem_stride: [1, 1, 1]`, `max_pool: false`.
    """

    has_features: ClassVar[bool] = True

    depth: Literal[10, 18, 34, 50] = 18
    width: Width = 64  # of the first stage; each further one doubles it
    stem_kernel: FewTriple = (7, 7, 7)
    stem_stride: FewTriple = (2, 2, 2)
    max_pool: bool = True  # 3×3×3 with stride 2 after the stem
    layer_strides: tuple[Few, Few, Few, Few] = (1, 2, 2, 2)
    layer_dilations: tuple[Few, Few, Few, Few] = (1, 1, 1, 1)
    shortcut: Literal["A", "B"] = "B"  # where shapes differ. A: subsample, pad with zeros. B: 1×1×1 convolution, norm
    shortcut_bias: bool = False  # of B's convolution: does nothing before a norm, but published weights have it
    norm: Literal["instance", "batch", "group"] = "batch"
    groups: Count = 8  # of group norm
    recompute: bool = False  # trade time for memory: keep block inputs only (gradient checkpointing)
    dropout: ClassifierDropout = ClassifierDropout()

    @model_validator(mode="after")
    def _fits(self) -> "ResNet3dArgs":
        if any(k % 2 == 0 for k in self.stem_kernel):
            raise ValueError(f"stem_kernel must be odd; got {self.stem_kernel}")
        if self.norm == "group" and self.width % self.groups:
            raise ValueError(f"width={self.width} must be a multiple of groups={self.groups}")
        return self

    @classmethod
    def propose(cls, size: Size, num_train: int) -> dict[str, Any]:
        """Return more layers and channels the more cases there are, and no early strides along short axes."""
        depth, width = [proposed for cases, proposed in PROPOSED if num_train >= cases][-1]
        short = [n <= SHORT for n in size]
        if not any(short):
            return {"depth": depth, "width": width}
        kernel, stride = [3 if s else 7 for s in short], [1 if s else 2 for s in short]
        return {"depth": depth, "width": width, "stem_kernel": kernel, "stem_stride": stride, "max_pool": False}

    def list_convolutions(self, size: Size, in_channels: int = 1) -> Iterator[Convolution]:
        one, cube = (1, 1, 1), (3, 3, 3)
        size, channels = shrink(size, self.stem_stride), self.width
        yield Convolution(in_channels, channels, self.stem_kernel, size)
        size = shrink(size, (2, 2, 2)) if self.max_pool else size
        for stage, count in enumerate(BLOCKS_PER_STAGE[self.depth]):
            for block in range(count):
                stride = 1 if block else self.layer_strides[stage]
                before, size, width = size, shrink(size, (stride, stride, stride)), self.width << stage
                outputs = 4 * width if self.depth == 50 else width
                if self.depth == 50:
                    yield Convolution(channels, width, one, before)
                    yield Convolution(width, width, cube, size)
                    yield Convolution(width, outputs, one, size)
                else:
                    yield Convolution(channels, width, cube, size)
                    yield Convolution(width, width, cube, size)
                if self.shortcut == "B" and (stride, channels) != (1, outputs):
                    yield Convolution(channels, outputs, one, size)
                channels = outputs


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions and a shortcut: y = ReLU(conv2(conv1(x)) + shortcut(x)).

    Dropout is between the convolutions, as in wide ResNets (Zagoruyko and Komodakis 2016, arXiv:1605.07146):
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
        """Return the places on each path, for `dropout.kept_shares`; the shortcuts keep all channels."""
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
    """Return the layer that brings a block's input to its output's shape; None where the shapes agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    if args.shortcut == "A":
        return PadShortcut(in_channels, out_channels, stride)
    norm = make_norm(args.norm, out_channels, args.groups)
    return ConvBlock(in_channels, out_channels, 1, stride, norm=norm, bias=args.shortcut_bias)
