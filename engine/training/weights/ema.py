"""Exponential moving average of the weights (Polyak and Juditsky 1992)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

import ops


class WeightAverage:
    """The moving average of a model's parameters and batch-norm statistics, in float32.

    It begins as the weights themselves. Its decay grows as (1 + t) / (10 + t) up to `decay`, so that the first, random
    weights soon lose their influence. `state` is a tree of arrays that mx.compile can capture.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Any] = {
            "step": mx.array(0, mx.int32),
            "average": dict(tree_flatten(model.parameters())),
        }

    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        t = self.state["step"].astype(mx.float32)
        rest = 1 - mx.minimum(self.decay, (1 + t) / (10 + t))
        average = self.state["average"]
        for name, value in tree_flatten(model.parameters()):
            average[name] = ops.move_towards(average[name], value, rest)
        self.state["step"] = self.state["step"] + 1

    def set(self, arrays: Mapping[str, mx.array], step: mx.array) -> None:
        """Continue from a flat {name: array}, as after `step` updates."""
        self.state["average"].update(arrays)
        self.state["step"] = step

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights within the context, and its own again afterwards."""
        raw = tree_flatten(model.parameters())
        model.update(tree_unflatten(list(self.state["average"].items())))
        try:
            yield
        finally:
            model.update(tree_unflatten(raw))
