"""The plainest 3-D CNN: blocks of Conv3d, norm, ReLU and Dropout3d, pooling between them, a linear head."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn
from pydantic import Field, model_validator

import ops
from configs.schema.model import Convolution, NetworkArgs, Size
from configs.schema.types import Count, FewTriple, Width
from models.layers.blocks import ConvBlock, he_normal
from models.layers.dropout import make_dropout
from models.layers.heads import ClassifierDropout, Head, check_input
from models.layers.norms import make_norm


class CNN3dArgs(NetworkArgs):
    """A plain stack of Conv3d – norm – ReLU – Dropout3d blocks with pooling between, and a linear head."""

    has_features: ClassVar[bool] = True

    widths: Annotated[tuple[Width, ...], Field(max_length=64)] = (16, 32, 64, 128)  # one block each
    kernel: FewTriple = (3, 3, 3)
    pool: FewTriple = (2, 2, 2)  # max pooling between blocks; [1, 2, 2] keeps a video's frames
    norm: Literal["instance", "batch", "group", "none"] = "batch"
    groups: Count = 8  # of group norm
    dropout: ClassifierDropout = ClassifierDropout()

    @model_validator(mode="after")
    def _widths_fit(self) -> "CNN3dArgs":
        if not self.widths:
            raise ValueError("widths must name at least one block; got none")
        if self.norm == "group" and any(w % self.groups for w in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups={self.groups}")
        if any(k % 2 == 0 for k in self.kernel):
            raise ValueError(f"kernel must be odd; got {self.kernel}")
        return self

    def fewest_tensors(self) -> int:
        return len(self.widths)

    @classmethod
    def propose(cls, size: Size, num_train: int) -> dict[str, Any]:
        widths = [16, 32, 64, 64] if num_train < 500 else [16, 32, 64, 128]
        pool = [2 if length >= 2 ** (len(widths) - 1) else 1 for length in size]
        return {"widths": widths} | ({} if pool == [2, 2, 2] else {"pool": pool})

    def list_convolutions(self, size: Size, in_channels: int = 1) -> Iterator[Convolution]:
        inputs = in_channels
        for block, width in enumerate(self.widths):
            size = tuple(max(n // step, 1) for n, step in zip(size, self.pool, strict=True)) if block else size
            yield Convolution(inputs, width, self.kernel, size)
            inputs = width


class CNN3d(nn.Module):
    """Classifier of volumes or clips.

    model(x) maps (N, D, H, W, in_channels), float32 or bfloat16, to logits (N, num_outputs), float32. No
    gradient reaches x. `features(x)` is what the head pools.
    """

    def __init__(self, in_channels: int, num_outputs: int, args: CNN3dArgs) -> None:
        super().__init__()
        inputs = (in_channels, *args.widths[:-1])
        self.blocks = [
            ConvBlock(
                inputs[i],
                width,
                args.kernel,
                norm=make_norm(args.norm, width, args.groups),
                act=nn.ReLU(),
                drop=make_dropout(args.dropout, "body"),  # an nn.Dropout3d
                position=args.dropout.position,
                input_grad=i > 0,
            )
            for i, width in enumerate(args.widths)
        ]
        self.head = Head(args.widths[-1], num_outputs, make_dropout(args.dropout, "head"))
        self.pool = args.pool
        self.in_channels = in_channels
        he_normal(self)

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.features(x))

    def dropout_paths(self) -> dict[str, tuple[str, ...]]:
        """Return the places on each path, for `dropout.kept_shares`; the head's mask follows the last block's."""
        return {"body": ("body",), "head": ("body", "head")}

    def features(self, x: mx.array) -> mx.array:
        """Return the last block's output, (N, D', H', W', widths[-1])."""
        check_input("cnn3d", x, self.in_channels)
        for i, block in enumerate(self.blocks):
            if i:
                if any(length < step for length, step in zip(x.shape[1:4], self.pool, strict=True)):
                    raise ValueError(
                        f"cnn3d: {x.shape[1:4]} voxels are too few to pool by {tuple(self.pool)} before block {i + 1}; "
                        f"set model.args.pool to 1 along the short axis, or name fewer model.args.widths"
                    )
                x = ops.max_pool3d(x, self.pool, self.pool)  # (N, D, H, W, C) -> (N, D/2, H/2, W/2, C)
            x = block(x)
        return x
