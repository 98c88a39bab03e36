"""r3d_18, mc3_18 and r2plus1d_18 for video, layer for layer as torchvision has them; D is time.

Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions for Action Recognition", arXiv:1711.11248.
"""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal, Protocol

import mlx.core as mx
import mlx.nn as nn

from configs.schema.model import Convolution, DropoutPosition, NetworkArgs, Size, shrink
from models.layers.blocks import ConvBlock, he_normal
from models.layers.dropout import make_dropout
from models.layers.heads import ClassifierDropout, Head, check_input, run_blocks
from models.layers.norms import BatchNorm3d

Kind = Literal["r3d_18", "mc3_18", "r2plus1d_18"]
WIDTHS = (64, 128, 256, 512)


class VideoResNetArgs(NetworkArgs):
    """r3d_18, mc3_18 and r2plus1d_18 (Tran et al. 2018), layer for layer as torchvision has them."""

    has_features: ClassVar[bool] = True
    kind: ClassVar[Kind] = "r3d_18"

    recompute: bool = False  # trade time for memory: keep block inputs only (gradient checkpointing)
    dropout: ClassifierDropout = ClassifierDropout()

    def list_convolutions(self, size: Size, in_channels: int = 1) -> Iterator[Convolution]:
        size, channels = shrink(size, (1, 2, 2)), WIDTHS[0]
        if self.kind == "r2plus1d_18":
            yield Convolution(in_channels, STEM_MIDDLE, (1, 7, 7), size)
            yield Convolution(STEM_MIDDLE, channels, (3, 1, 1), size)
        else:
            yield Convolution(in_channels, channels, (3, 7, 7), size)
        for stage, width in enumerate(WIDTHS):
            time = 3 if stage == 0 or self.kind != "mc3_18" else 1  # the kernel's extent in time
            for block in range(2):
                stride = 2 if stage and not block else 1
                middle, inputs = middle_channels(channels, width), channels
                for step in (stride, 1):
                    flat = shrink(size, (1, step, step))
                    size = shrink(flat, (step if time > 1 else 1, 1, 1))
                    if self.kind == "r2plus1d_18":
                        yield Convolution(inputs, middle, (1, 3, 3), flat)
                        yield Convolution(middle, width, (3, 1, 1), size)
                    else:
                        yield Convolution(inputs, width, (time, 3, 3), size)
                    inputs = width
                if channels != width:
                    yield Convolution(channels, width, (1, 1, 1), size)
                channels = width


class MC3Args(VideoResNetArgs):
    """mc3_18 (Tran et al. 2018), layer for layer as torchvision has it."""

    kind: ClassVar[Kind] = "mc3_18"


class R2Plus1DArgs(VideoResNetArgs):
    """r2plus1d_18 (Tran et al. 2018), layer for layer as torchvision has it."""

    kind: ClassVar[Kind] = "r2plus1d_18"


STEM_MIDDLE = 45  # channels between space and time in r2plus1d_18's stem


def middle_channels(in_channels: int, out_channels: int) -> int:
    """Return the channels between space and time with as many parameters as a full 3-D convolution has."""
    return in_channels * out_channels * 27 // (in_channels * 9 + out_channels * 3)


class MakeConv(Protocol):
    """Makes the convolution, norm and activation that the kinds of network differ in."""

    def __call__(
        self, in_channels: int, out_channels: int, stride: int, *, middle: int, drop: nn.Module | None
    ) -> nn.Module: ...


def conv_3d(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    middle: int,
    drop: nn.Module | None,
    position: DropoutPosition = "after_activation",
    kernel_time: int = 3,
) -> ConvBlock:
    """Return a convolution over `kernel_time` × 3 × 3; without extent in time it has no stride there either."""
    kernel, strides = (kernel_time, 3, 3), (stride if kernel_time > 1 else 1, stride, stride)
    norm = BatchNorm3d(out_channels)
    return ConvBlock(in_channels, out_channels, kernel, strides, norm=norm, act=nn.ReLU(), drop=drop, position=position)


class Conv2Plus1d(nn.Module):
    """A 1×3×3 convolution in space to `middle` channels, then a 3×1×1 convolution in time."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        middle: int,
        drop: nn.Module | None,
        position: DropoutPosition = "after_activation",
    ) -> None:
        super().__init__()
        norm, act = BatchNorm3d(middle), nn.ReLU()
        self.spatial = ConvBlock(in_channels, middle, (1, 3, 3), (1, stride, stride), norm=norm, act=act)
        norm, act = BatchNorm3d(out_channels), nn.ReLU()
        self.temporal = ConvBlock(
            middle, out_channels, (3, 1, 1), (stride, 1, 1), norm=norm, act=act, drop=drop, position=position
        )

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        return self.temporal(self.spatial(x), residual)


class VideoBlock(nn.Module):
    """Residual block: y = ReLU(conv2(conv1(x)) + shortcut(x)), with dropout between the convolutions."""

    def __init__(
        self, in_channels: int, width: int, stride: int, conv: MakeConv, strides_time: bool, drop: nn.Module | None
    ) -> None:
        super().__init__()
        middle = middle_channels(in_channels, width)  # of both, as in torchvision
        self.conv1 = conv(in_channels, width, stride, middle=middle, drop=drop)
        self.conv2 = conv(width, width, 1, middle=middle, drop=None)
        self.shortcut = None
        if stride != 1 or in_channels != width:
            strides = (stride if strides_time else 1, stride, stride)
            self.shortcut = ConvBlock(in_channels, width, 1, strides, norm=BatchNorm3d(width))

    def __call__(self, x: mx.array) -> mx.array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(self.conv1(x), shortcut)


class VideoResNet(nn.Module):
    """18 layers of residual blocks: r3d has 3×3×3 convolutions, mc3 such in the first stage and 1×3×3 after it,
    r2plus1d splits each into space and time.

    model(x) maps (N, T, H, W, in_channels), float32 or bfloat16, to logits (N, num_outputs), float32. No
    gradient reaches x. Drawn as torchvision's: convolutions He-normal by fan-out, the last layer N(0, 0.01).
    `features(x)` is what the head pools.
    """

    def __init__(self, in_channels: int, num_outputs: int, args: VideoResNetArgs, *, kind: Kind) -> None:
        super().__init__()
        self.stem = make_stem(in_channels, split=kind == "r2plus1d_18")
        channels = WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            has_time = kind != "mc3_18" or i == 0
            make = Conv2Plus1d if kind == "r2plus1d_18" else partial(conv_3d, kernel_time=3 if has_time else 1)
            conv: MakeConv = partial(make, position=args.dropout.position)
            drops = [make_dropout(args.dropout, "body") for _ in range(2)]
            self[f"layer{i + 1}"] = [
                VideoBlock(channels, width, 2 if i else 1, conv, has_time, drops[0]),
                VideoBlock(width, width, 1, conv, has_time, drops[1]),
            ]
            channels = width
        self.head = Head(channels, num_outputs, make_dropout(args.dropout, "head"))
        self.recompute = args.recompute
        self.in_channels = in_channels
        self._kind = kind
        he_normal(self, mode="fan_out")
        self.head.fc.weight = mx.random.normal(self.head.fc.weight.shape, scale=0.01)
        self.head.fc.bias = mx.zeros_like(self.head.fc.bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.features(x))

    def dropout_paths(self) -> dict[str, tuple[str, ...]]:
        """Return the places on each path, for `dropout.kept_shares`; the shortcuts keep all channels."""
        return {"body": ("body",), "head": ("head",)}

    def features(self, x: mx.array) -> mx.array:
        """Return the last convolution's output, (N, T', H', W', 512)."""
        check_input(self._kind, x, self.in_channels)
        blocks = [*self.stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4]
        return run_blocks(blocks, x, self.recompute and self.training)


def make_stem(in_channels: int, split: bool) -> list[ConvBlock]:
    """Return the first convolution, 3×7×7, or 1×7×7 and 3×1×1; stride 2 in space."""
    if not split:
        norm = BatchNorm3d(64)
        return [ConvBlock(in_channels, 64, (3, 7, 7), (1, 2, 2), norm=norm, act=nn.ReLU(), input_grad=False)]
    norm = BatchNorm3d(STEM_MIDDLE)
    return [
        ConvBlock(in_channels, STEM_MIDDLE, (1, 7, 7), (1, 2, 2), norm=norm, act=nn.ReLU(), input_grad=False),
        ConvBlock(STEM_MIDDLE, 64, (3, 1, 1), norm=BatchNorm3d(64), act=nn.ReLU()),
    ]
