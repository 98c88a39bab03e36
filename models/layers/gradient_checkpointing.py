"""Gradient checkpointing that keeps dropout masks and running statistics right.

A checkpointed block is called a second time in the backward pass. Without care that second run draws
other dropout masks (wrong gradients, no error) and updates batch-norm statistics twice.
"""

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

_tape: "_Tape | None" = None


class _Tape:
    """Random arrays of a block's first run, returned again in each later run."""

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self.recorded = False
        self._next = 0

    def rewind(self) -> None:
        self.recorded, self._next = True, 0

    def take(self, draw: Callable[[], mx.array]) -> mx.array:
        if not self.recorded:
            self.arrays.append(draw())
            return self.arrays[-1]
        self._next += 1
        return self.arrays[self._next - 1]


def draw_once(draw: Callable[[], mx.array]) -> mx.array:
    """Return `draw()`; inside a recomputed block's second run, what it returned in the first."""
    return draw() if _tape is None else _tape.take(draw)


def is_recomputing() -> bool:
    """Return whether a recomputed block is running: random numbers must then come through `draw_once`."""
    return _tape is not None


def recomputed(block: nn.Module, x: mx.array) -> mx.array:
    """Return block(x), keeping only x and the parameters for the backward pass, which runs the block again.

    Values, gradients, random state and running statistics are those of block(x). Chen et al. 2016,
    arXiv:1604.06174.
    """
    tape = _Tape()
    flat = tree_flatten(block.trainable_parameters())
    names = [name for name, _ in flat]

    def run(inputs: list[mx.array]) -> mx.array:
        global _tape
        x, *arrays = inputs
        outside, _tape = _tape, tape
        before = block.parameters() if tape.recorded else block.trainable_parameters()
        try:
            block.update(tree_unflatten(list(zip(names, arrays, strict=True))))
            return block(x)
        finally:
            block.update(before)  # the first run keeps its new statistics, the second does not
            tape.rewind()
            _tape = outside

    # Not mx.checkpoint: with it MLX computes parameters' gradients last and, until then, keeps all that blocks have
    # recomputed for them.
    function = mx.custom_function(run)

    @function.vjp
    def gradients(inputs: list[mx.array], cotangent: Any, _: Any) -> list[mx.array]:
        cotangents = [cotangent] if isinstance(cotangent, mx.array) else list(cotangent)
        inputs = mx.depends(inputs, cotangents)
        dx, *others = mx.vjp(lambda *inputs: run(list(inputs)), inputs, cotangents)[1]
        return [*(mx.depends([dx], others) if others else [dx]), *others]

    return cast(mx.array, function([x, *(array for _, array in flat)]))
