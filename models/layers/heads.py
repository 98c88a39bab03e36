"""What all classifiers share: dropout's places, the head, the run through the blocks, the input's check."""

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from configs.schema.model import DropoutArgs
from models.layers.dropout import apply_dropout
from models.layers.gradient_checkpointing import recomputed


class ClassifierDropout(DropoutArgs):
    """Dropout of a classifier: in each block of the body, or on the pooled features before the last layer.

    Kinds and position, which is the body's, as in `Dropout`. Pooled features have one value a channel, so both kinds
    are the same in the head. The body is not a default place: dropout before batch norm makes variances in training and
    evaluation differ, see `train.recalibrate_norms`.
    """

    places: tuple[Literal["body", "head"], ...] = ("head",)


class Head(nn.Module):
    """Global average pooling, dropout on the pooled features, a linear layer."""

    def __init__(self, features: int, num_outputs: int, drop: nn.Module | None) -> None:
        super().__init__()
        self.drop = drop
        self.fc = nn.Linear(features, num_outputs)

    def __call__(self, x: mx.array) -> mx.array:
        """Map (N, D, H, W, C) to logits (N, num_outputs), float32."""
        x = x.astype(mx.float32).mean(axis=(1, 2, 3), keepdims=True)
        return self.fc(apply_dropout(self.drop, x).reshape(x.shape[0], -1))


def run_blocks(blocks: Sequence[nn.Module], x: mx.array, recompute: bool) -> mx.array:
    """Return the last of the blocks' outputs, each the input of the next."""
    for block in blocks:
        x = recomputed(block, x) if recompute else block(x)
    return x


def check_input(name: str, x: mx.array, in_channels: int) -> None:
    """Raise ValueError unless x is (N, D, H, W, in_channels)."""
    if x.ndim != 5 or x.shape[-1] != in_channels:
        raise ValueError(f"{name} takes (N, D, H, W, {in_channels}) arrays; got shape {x.shape}")
