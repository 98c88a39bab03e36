"""3-D U-Net: blocks of Conv3d, norm, activation and Dropout3d on a way down and a way up."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn
from pydantic import Field, model_validator

import ops
from configs.schema.model import Convolution, DropoutArgs, NetworkArgs, Size, shrink
from configs.schema.types import Count, Few, FewTriple, Triple, Width
from models.layers.blocks import ConvBlock, he_normal, make_activation
from models.layers.dropout import apply_dropout, make_dropout
from models.layers.fused import apply_conv, apply_conv_transpose
from models.layers.gradient_checkpointing import recomputed
from models.layers.norms import make_norm


class Dropout(DropoutArgs):
    """Dropout of a U-Net: in each block at the named places, or on the skips. See docs/ablations.md.

    `channel` drops whole feature maps (`mlx.nn.Dropout3d`: what papers call spatial or channel dropout),
    `element` single voxels (`mlx.nn.Dropout`), `none` builds no dropout layer. With `skip` among the places the
    skips branch off before the encoder's last dropout, otherwise after it.
    """

    places: tuple[Literal["encoder", "bottleneck", "decoder", "skip"], ...] = ("encoder", "bottleneck", "decoder")


class UNet3dArgs(NetworkArgs):
    """U-Net (Çiçek et al. 2016, arXiv:1606.06650) in nnU-Net's shape (Isensee et al. 2021).

    Level 0 has the image's resolution; level i > 0 starts with a convolution of stride `strides[i]`.
    """

    segments: ClassVar[bool] = True

    widths: Annotated[tuple[Width, ...], Field(max_length=16)] = (16, 32, 64)
    strides: tuple[FewTriple, ...] | None = None  # one per level, the first (1, 1, 1); null: 2 on every axis
    kernels: tuple[FewTriple, ...] | None = None  # one per level; null: 3 on every axis
    convolutions: Few = 2  # per level
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    groups: Count = 8  # of group norm
    activation: Literal["relu", "leaky_relu", "gelu", "silu"] = "leaky_relu"
    residual: bool = False
    upsampling: Literal["transposed", "resize"] = "transposed"
    deep_supervision: bool = False  # a loss at every level on the way up; see loss.supervise_coarsest
    recompute: bool = False  # trade time for memory: keep block inputs only (gradient checkpointing)
    dropout: Dropout = Dropout()

    @model_validator(mode="after")
    def _levels_agree(self) -> "UNet3dArgs":
        if not self.widths:
            raise ValueError("widths must name at least one level; got none")
        for key in ("strides", "kernels"):
            value = getattr(self, key)
            if value is not None and len(value) != len(self.widths):
                raise ValueError(f"{key} has {len(value)} entries; widths has {len(self.widths)} levels")
        if self.strides is not None and self.strides[0] != (1, 1, 1):
            raise ValueError(f"strides[0]={self.strides[0]}: level 0 has the image's resolution, so use [1, 1, 1]")
        if any(k % 2 == 0 for kernel in self.kernels or () for k in kernel):
            raise ValueError(f"kernels must be odd; got {self.kernels}")
        if self.norm == "group" and any(w % self.groups for w in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups={self.groups}")
        dropout = self.dropout
        if self.norm == "batch" and dropout.position == "before_norm" and {"encoder", "skip"} <= set(dropout.places):
            raise ValueError(
                "dropout.position=before_norm with encoder and skip among dropout.places normalises a level's end with "
                "and without dropout, and batch norm has statistics for one of them; use norm=instance or group, or "
                "leave out a place"
            )
        return self

    @property
    def downsamplings(self) -> int:
        return len(self.widths) - 1

    @property
    def supervises_levels(self) -> bool:
        return self.deep_supervision

    def level_strides(self) -> tuple[tuple[int, int, int], ...]:
        """Stride of each level against the one above it, (D, H, W)."""
        return self.strides or ((1, 1, 1), *((2, 2, 2),) * (len(self.widths) - 1))

    def level_kernels(self) -> tuple[tuple[int, int, int], ...]:
        """Kernel of each level's convolutions, (D, H, W)."""
        return self.kernels or ((3, 3, 3),) * len(self.widths)

    def total_stride(self) -> tuple[int, int, int]:
        """Product of all strides: what each patch axis must be divisible by."""
        d = h = w = 1
        for stride in self.level_strides():
            d, h, w = d * stride[0], h * stride[1], w * stride[2]
        return d, h, w

    def fewest_tensors(self) -> int:
        return len(self.widths) * self.convolutions

    def list_convolutions(self, size: Size, in_channels: int = 1) -> Iterator[Convolution]:
        inputs, last = in_channels, len(self.widths) - 1
        way_up: list[list[Convolution]] = []
        for level, (width, stride, kernel) in enumerate(
            zip(self.widths, self.level_strides(), self.level_kernels(), strict=True)
        ):
            size = shrink(size, stride)
            further = [Convolution(width, width, kernel, size)] * (self.convolutions - 1)
            yield from (Convolution(inputs, width, kernel, size), *further)
            if level < last:
                way_up.append([Convolution(2 * width, width, kernel, size), *further])  # of skip and upsampled maps
            inputs = width
        for convolutions in reversed(way_up):
            yield from convolutions


class Level(nn.Module):
    """The convolutions at one resolution; the first one may be strided.

    With `residual` a shortcut leads around all of them: y = act(block(x) + shortcut(x)), the shortcut being
    a 1×1×1 convolution where shapes differ. Dropout is only in the branch, see `ConvBlock`.

    splits: whether a call returns (y, skip), where skip is y without the last block's dropout.
    """

    def __init__(
        self,
        in_channels: int,
        level: int,
        args: UNet3dArgs,
        *,
        place: str,
        stride: Triple,
        first: bool = False,
        splits: bool = False,
    ) -> None:
        super().__init__()
        width, kernel = args.widths[level], args.level_kernels()[level]
        self.blocks = [
            ConvBlock(
                width if i else in_channels,
                width,
                kernel,
                (1, 1, 1) if i else stride,
                norm=make_norm(args.norm, width, args.groups),
                act=make_activation(args.activation),
                drop=make_dropout(args.dropout, place),  # an nn.Dropout3d
                position=args.dropout.position,
                input_grad=bool(i) or not first,
            )
            for i in range(args.convolutions)
        ]
        self.residual, self.splits = args.residual, splits
        self.shortcut = None
        if args.residual and (in_channels != width or stride != (1, 1, 1)):
            norm = make_norm(args.norm, width, args.groups)
            self.shortcut = ConvBlock(in_channels, width, 1, stride, norm=norm, input_grad=not first)

    def __call__(self, x: mx.array) -> mx.array | tuple[mx.array, mx.array]:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        residual = shortcut if self.residual else None
        return last.split(x, residual) if self.splits else last(x, residual)


class Resize(nn.Module):
    """Upsampling by linear interpolation, after a 1×1×1 convolution to the new width.

    Both are linear and act on different axes, so the values do not depend on their order; the convolution costs
    less at the lower resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: Triple) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 1)
        self.scale = scale

    def __call__(self, x: mx.array) -> mx.array:
        return ops.upsample3d(apply_conv(self.conv, x), self.scale, mode="linear")


class UNet3d(nn.Module):
    """U-Net of Çiçek et al. (2016, arXiv:1606.06650) in the shape of nnU-Net (Isensee et al. 2021).

    Level 0 has the image's resolution, each further one starts with a strided convolution, and the last is
    the bottleneck. On the way up a level is upsampled, concatenated with the skip of the same resolution, and
    convolved again. Weights are drawn as `blocks.he_normal` says: convolutions as nnU-Net's are, transposed ones with
    4 times the variance (at half the width and stride 2), so that they keep their input's.

    With "encoder" and "skip" among dropout's places, skips branch off before the encoder's last dropout: each path
    from one convolution to the next then has one mask. Without "skip" that dropout is on the skips too, as in nnU-Net.

    model(x) maps (N, D, H, W, in_channels), float32 or bfloat16, to logits (N, D, H, W, num_outputs) in
    float32. With deep supervision, in training, it returns a list of logits, finest first: one for each level
    but the bottleneck. No gradient reaches x.
    """

    def __init__(self, in_channels: int, num_outputs: int, args: UNet3dArgs) -> None:
        super().__init__()
        widths, strides = args.widths, args.level_strides()
        inputs, bottom = (in_channels, *widths), len(widths) - 1
        inner = range(bottom)  # all levels but the bottleneck
        *self.encoder, self.bottleneck = [
            Level(
                inputs[i],
                i,
                args,
                place="encoder" if i < bottom else "bottleneck",
                stride=strides[i],
                first=i == 0,
                splits=i < bottom and {"encoder", "skip"} <= set(args.dropout.places),
            )
            for i in range(len(widths))
        ]
        # up[i], skip[i] and decoder[i] work at the resolution of encoder[i].
        self.up = [make_upsampling(args.upsampling, widths[i + 1], widths[i], strides[i + 1]) for i in inner]
        self.skip = [drop for _ in inner if (drop := make_dropout(args.dropout, "skip")) is not None]
        self.decoder = [Level(2 * widths[i], i, args, place="decoder", stride=(1, 1, 1)) for i in inner]
        num_heads = max(1, bottom) if args.deep_supervision else 1
        self.heads = [nn.Conv3d(widths[i], num_outputs, 1) for i in range(num_heads)]

        self.deep_supervision = args.deep_supervision
        self.recompute = args.recompute
        self.total_stride = args.total_stride()
        self.in_channels = in_channels
        he_normal(self, slope=0.01 if args.activation == "leaky_relu" else 0.0)

    def __call__(self, x: mx.array) -> mx.array | list[mx.array]:
        self._check(x)
        skips = []
        for level in self.encoder:
            y = self._run(level, x)  # (N, D/s, H/s, W/s, width)
            x, skip = y if level.splits else (y, y)
            skips.append(skip)
        x = self._run(self.bottleneck, x)

        logits = []
        for i in reversed(range(len(self.decoder))):
            x = upsample(self.up[i], x)
            skip = apply_dropout(self.skip[i], skips[i]) if self.skip else skips[i]
            x = self._run(self.decoder[i], ops.concat_channels(x, skip))
            if i < len(self.heads) and (i == 0 or self.training):
                logits.append(self._head(i, x))
        if not self.decoder:
            logits.append(self._head(0, x))
        return logits[::-1] if self.deep_supervision and self.training else logits[-1]

    def dropout_paths(self) -> dict[str, tuple[str, ...]]:
        """Return the places on each path, for `dropout.kept_shares`; "encoder" is the way down."""
        skip = ("skip",) if self.encoder and self.encoder[0].splits else ("encoder", "skip")
        return {"encoder": ("encoder",), "skip": skip, "bottleneck": ("bottleneck",), "decoder": ("decoder",)}

    def _run(self, level: Level, x: mx.array) -> Any:
        return recomputed(level, x) if self.recompute and self.training else level(x)

    def _head(self, i: int, x: mx.array) -> mx.array:
        return apply_conv(self.heads[i], x).astype(mx.float32)

    def _check(self, x: mx.array) -> None:
        if x.ndim != 5 or x.shape[-1] != self.in_channels:
            raise ValueError(f"unet3d takes (N, D, H, W, {self.in_channels}) arrays; got shape {x.shape}")
        for axis, size, divisor in zip("DHW", x.shape[1:4], self.total_stride, strict=True):
            if size % divisor:
                lower = size // divisor * divisor
                crop = f" or crop it to {lower}" if lower else ""
                raise ValueError(
                    f"unet3d: axis {axis} of the input has {size} voxels, which is not divisible by {divisor} "
                    f"(the product of its strides); pad it to {lower + divisor}{crop}"
                )


def make_upsampling(kind: str, in_channels: int, out_channels: int, scale: Triple) -> nn.Module:
    """Return the layer that enlarges by `scale`: "transposed" (kernel and stride equal) or "resize"."""
    if kind == "transposed":
        return nn.ConvTranspose3d(in_channels, out_channels, scale, scale)
    if kind == "resize":
        return Resize(in_channels, out_channels, scale)
    raise ValueError(f"upsampling {kind!r} is unknown: expected transposed or resize")


def upsample(layer: nn.Module, x: mx.array) -> mx.array:
    """Return layer(x) for a layer of `make_upsampling`, or for its replacement."""
    return apply_conv_transpose(layer, x) if isinstance(layer, nn.ConvTranspose3d) else layer(x)
