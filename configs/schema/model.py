"""The `model` section: one class of arguments per network."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.types import Count, Section, Triple

MAX_ELEMENTS = 2**31 - 1  # of an array, which MLX's kernels on a GPU index with 32 bits
Size = tuple[int, ...]  # voxels (D, H, W)
DropoutKind = Literal["none", "element", "channel"]
# In a block: before_norm as nnU-Net, after_norm as MONAI. With a residual before the sum, in the branch, always.
DropoutPosition = Literal["after_activation", "before_norm", "after_norm"]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]


class Dropout(Section):
    """Dropout of a U-Net: in each block at the named places, or on the skips. docs/ablations.md tells more.

    `channel` drops whole feature maps (`mlx.nn.Dropout3d`: what papers call spatial or channel dropout),
    `element` single voxels (`mlx.nn.Dropout`), `none` builds no dropout layer. With `skip` among the places the
    skips leave before the encoder's last dropout, otherwise behind it.
    """

    kind: DropoutKind = "channel"
    rate: DropoutRate = 0.1
    places: tuple[Literal["encoder", "bottleneck", "decoder", "skip"], ...] = ("encoder", "bottleneck", "decoder")
    position: DropoutPosition = "after_activation"


class ClassifierDropout(Section):
    """Dropout of a classifier: in each block of the body, or on the pooled features before the last layer.

    Kinds and position, which is the body's, as in `Dropout`. Pooled features have one value a channel, so both kinds
    are the same in the head. The body is no default: dropout before batch norm makes training's variance another than
    evaluation's, see `train.recalibrate_norms`.
    """

    kind: DropoutKind = "channel"
    rate: DropoutRate = 0.1
    places: tuple[Literal["body", "head"], ...] = ("head",)
    position: DropoutPosition = "after_activation"


class UNet3dArgs(Section):
    """U-Net (Çiçek et al. 2016, arXiv:1606.06650) in nnU-Net's shape (Isensee et al. 2021).

    Level 0 has the image's resolution; level i > 0 starts with a convolution of stride `strides[i]`.
    """

    widths: tuple[Count, ...] = (16, 32, 64)
    strides: tuple[Triple, ...] | None = None  # one per level, the first (1, 1, 1); null: 2 on every axis
    kernels: tuple[Triple, ...] | None = None  # one per level; null: 3 on every axis
    convolutions: Count = 2  # per level
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

    def largest_activation(self, size: Size) -> int:
        """Elements of the largest array that one sample (D, H, W) has: skip and upsampled maps side by side, mostly."""
        largest, last = 0, len(self.widths) - 1
        for level, (width, stride) in enumerate(zip(self.widths, self.level_strides(), strict=True)):
            size = _shrink(size, stride)
            largest = max(largest, math.prod(size) * width * (1 if level == last else 2))
        return largest


class UNet3dConfig(Section):
    name: Literal["unet3d"] = "unet3d"
    args: UNet3dArgs = UNet3dArgs()


class CNN3dArgs(Section):
    """A plain stack of Conv3d – norm – ReLU – Dropout3d blocks with pooling between, and a linear head."""

    widths: tuple[Count, ...] = (16, 32, 64, 128)  # one block each
    kernel: Triple = (3, 3, 3)
    pool: Triple = (2, 2, 2)  # max pooling between blocks; [1, 2, 2] keeps a video's frames
    norm: Literal["instance", "batch", "group", "none"] = "batch"
    groups: Count = 8  # of group norm
    dropout: ClassifierDropout = ClassifierDropout()

    @model_validator(mode="after")
    def _widths_fit(self) -> "CNN3dArgs":
        if self.norm == "group" and any(w % self.groups for w in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups={self.groups}")
        if any(k % 2 == 0 for k in self.kernel):
            raise ValueError(f"kernel must be odd; got {self.kernel}")
        return self

    def largest_activation(self, size: Size) -> int:
        """Elements of the largest array that one sample (D, H, W) has."""
        largest = 0
        for block, width in enumerate(self.widths):
            size = tuple(max(n // step, 1) for n, step in zip(size, self.pool, strict=True)) if block else size
            largest = max(largest, math.prod(size) * width)
        return largest


class ResNet3dArgs(Section):
    """ResNet (He et al. 2016) in 3-D, with the strides of the 2-D original.

    MedicalNet's (Chen et al. 2019): `layer_strides: [1, 2, 1, 1]`, `layer_dilations: [1, 1, 2, 4]`, and
    `shortcut: A` for depth 18 and 34. MONAI's default: `stem_stride: [1, 1, 1]`, `shortcut_bias: true`.
    For volumes of about 32 voxels a side leave the early strides out: `stem_kernel: [3, 3, 3]`,
    `stem_stride: [1, 1, 1]`, `max_pool: false`.
    """

    depth: Literal[10, 18, 34, 50] = 18
    width: Count = 64  # of the first stage; each further one doubles it
    stem_kernel: Triple = (7, 7, 7)
    stem_stride: Triple = (2, 2, 2)
    max_pool: bool = True  # 3×3×3 with stride 2 after the stem
    layer_strides: tuple[Count, Count, Count, Count] = (1, 2, 2, 2)
    layer_dilations: tuple[Count, Count, Count, Count] = (1, 1, 1, 1)
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

    def largest_activation(self, size: Size) -> int:
        """Elements of the largest array that one sample (D, H, W) has."""
        size = _shrink(size, self.stem_stride)
        largest = math.prod(size) * self.width
        size = _shrink(size, (2, 2, 2)) if self.max_pool else size
        for stage, stride in enumerate(self.layer_strides):
            before, size = size, _shrink(size, (stride, stride, stride))
            width = self.width << stage
            # A bottleneck's first convolution still has the size of the stage before.
            inner, outer = (math.prod(before) * width, 4 * width) if self.depth >= 50 else (0, width)
            largest = max(largest, inner, math.prod(size) * outer)
        return largest


class VideoResNetArgs(Section):
    """r3d_18, mc3_18 and r2plus1d_18 (Tran et al. 2018), layer for layer as torchvision has them."""

    recompute: bool = False  # trade time for memory: keep block inputs only (gradient checkpointing)
    dropout: ClassifierDropout = ClassifierDropout()

    def largest_activation(self, size: Size) -> int:
        """Elements of the largest array that one sample (D, H, W) has at most, which is in the first blocks.

        r2plus1d_18's has 144 channels, between space and time; those of the others have 64.
        """
        return math.prod(_shrink(size, (1, 2, 2))) * 144


class CNN3dConfig(Section):
    name: Literal["cnn3d"] = "cnn3d"
    args: CNN3dArgs = CNN3dArgs()


class ResNet3dConfig(Section):
    name: Literal["resnet3d"] = "resnet3d"
    args: ResNet3dArgs = ResNet3dArgs()


class VideoResNetConfig(Section):
    name: Literal["r3d_18", "mc3_18", "r2plus1d_18"] = "r3d_18"
    args: VideoResNetArgs = VideoResNetArgs()


AnyModelConfig = Annotated[UNet3dConfig | CNN3dConfig | ResNet3dConfig | VideoResNetConfig, Field(discriminator="name")]


def _shrink(size: Size, stride: Size) -> Size:
    """The size after a convolution or pooling of the stride that pads."""
    return tuple(-(-n // step) for n, step in zip(size, stride, strict=True))
