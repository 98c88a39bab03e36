"""The `model` section: one class of arguments per network."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.fields import Count, Probability, Section, Triple

DropoutKind = Literal["none", "element", "channel"]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]


class Dropout(Section):
    """Dropout of a U-Net: after the activation of each block at the named places, or on the skips.

    `channel` drops whole feature maps (`mlx.nn.Dropout3d`: what papers call spatial or channel dropout),
    `element` single voxels (`mlx.nn.Dropout`), `none` builds no dropout layer.
    """

    kind: DropoutKind = "channel"
    rate: DropoutRate = 0.1
    places: tuple[Literal["encoder", "bottleneck", "decoder", "skip"], ...] = ("encoder", "bottleneck", "decoder")


class ClassifierDropout(Section):
    """Dropout of a classifier: after each block of the body, or on the pooled features before the last layer.

    Kinds as in `Dropout`. Pooled features have one value a channel, so both kinds are the same in the head.
    """

    kind: DropoutKind = "channel"
    rate: DropoutRate = 0.1
    places: tuple[Literal["body", "head"], ...] = ("head",)


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
    deep_supervision: bool = False
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


class UNet3dConfig(Section):
    name: Literal["unet3d"] = "unet3d"
    args: UNet3dArgs = UNet3dArgs()


ModelConfig = UNet3dConfig

__all__ = ["ClassifierDropout", "Dropout", "ModelConfig", "Probability", "UNet3dArgs", "UNet3dConfig"]
