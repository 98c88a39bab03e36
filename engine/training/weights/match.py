"""Matches start weights to a network by name and shape, and adapts them where the config allows it."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from configs.schema.weights import InitConfig
from engine.distributed.group import ALONE, Group
from engine.reports.tables import aligned
from engine.training.weights.load import Row, Start, What
from engine.training.weights.names import matches_any, matching

HEADS = ("head.*", "heads.*")
"""The names of networks' last layers, deep supervision included; the first axis of their tensors is classes."""


RARE = -3.0
"""The logit of a probability of 0.047."""


class InitError(ValueError):
    """Weights differ from the network in a way that the config does not allow."""


class _Mismatch(Exception):
    def __init__(self, key: str, reason: str | None = None) -> None:
        self.key = key  # of the config, which allows it
        self.reason = reason  # None: the shapes differ


def begin_rare(model: nn.Module) -> None:
    """Set the biases of the heads to RARE: for regions, which begin as rare as they are in most volumes.

    From probabilities of 0.5 many steps go by until the background is left alone (Lin et al. 2017, arXiv:1708.02002,
    section 4.1).
    """
    biases = [
        (name, mx.full(value.shape, RARE, value.dtype))
        for name, value in tree_flatten(model.parameters())
        if matches_any(name, HEADS) and name.endswith(".bias")
    ]
    model.update(tree_unflatten(biases))


def begin_from(
    model: nn.Module, start: Start | None, config: InitConfig, class_names: Sequence[str], group: Group = ALONE
) -> None:
    """Initialise the network, fill `start.table` and free the start's tensors; rank 0 of a group sends its weights.

    start: None in processes other than rank 0, and in a run that resumes from its own checkpoint. Raises InitError as
    `initialise` does.
    """
    if start is not None:
        start.table = initialise(model, start, config, class_names)
        start.tensors = {}
    if group.size > 1:
        group.agree()
        model.update(tree_unflatten(list(group.broadcast(dict(tree_flatten(model.parameters()))).items())))


def initialise(model: nn.Module, start: Start, config: InitConfig, class_names: Sequence[str]) -> list[Row]:
    """Put the weights into the network, batch norms' statistics included; return a row for each tensor.

    class_names: of the network's outputs, in order. A tensor without weights keeps its random values.

    Raises InitError that lists every tensor that does not fit, each with the key that allows it, and ValueError for a
    pattern that matches nothing; both leave the network unchanged.
    """
    parameters = dict(tree_flatten(model.parameters()))
    for pattern in config.allow_missing:
        matching(pattern, parameters, "init.allow_missing")
    for pattern in config.allow_unused:
        matching(pattern, start.tensors, "init.allow_unused", of=f"tensor of {config.source}")
    inputs = set(input_weights(model))
    rows, new, mismatches = [], [], []
    for name in sorted(parameters.keys() | start.tensors.keys()):
        own, found = parameters.get(name), start.tensors.get(name)
        value: mx.array | None = None
        try:
            if own is None:
                what, how = _leave_unused(name, config)
            elif matches_any(name, HEADS):
                what, how, value = _match_head(name, own, found, start, config, tuple(class_names))
            else:
                what, how, value = _match(name, own, found, name in inputs, config)
        except _Mismatch as mismatch:
            shapes = f"the network has {_shape(own)}, the weights {_shape(found)}"
            mismatches.append(f"  {name}: {mismatch.reason or shapes}; {mismatch.key} allows it")
            continue
        if value is not None and own is not None:
            new.append((name, value.astype(own.dtype)))
        rows.append(Row(name, what, _shape_of(own), _shape_of(found), how))
    if mismatches:
        head = f"init.from={config.source}: {len(mismatches)} tensor(s) do not fit this network:"
        raise InitError("\n".join([head, *mismatches]))
    if not new:
        raise InitError(f"init.from={config.source}: no tensor has a name and shape of this network; nothing to load")
    model.update(tree_unflatten(new))
    mx.eval(model.parameters())
    return rows


def _match(
    name: str, own: mx.array, found: mx.array | None, is_input: bool, config: InitConfig
) -> tuple[What, str, mx.array | None]:
    """Return (what, how, value) for one of the network's tensors outside the head; raise _Mismatch."""
    if found is not None and own.shape == found.shape:
        return "loaded", "", found
    other_channels = found is not None and is_input and own.shape[:-1] == found.shape[:-1]
    if found is not None and other_channels and config.input is not None:
        return "adapted", f"channels: {config.input}", adapt_input(found, own.shape[-1], config.input)
    if matches_any(name, config.allow_missing):
        return "new", "init.allow_missing", None
    raise _Mismatch("init.input=repeat, mean or first" if other_channels else "init.allow_missing")


def _match_head(
    name: str, own: mx.array, found: mx.array | None, start: Start, config: InitConfig, class_names: tuple[str, ...]
) -> tuple[What, str, mx.array | None]:
    """Do as `_match`, for a last layer's tensor (classes, ...)."""
    if config.head == "new":
        return "new", "init.head", None
    if found is not None and own.shape[1:] == found.shape[1:]:
        if own.shape == found.shape and start.class_names in (None, class_names):
            return "loaded", "", found
        theirs = start.class_names or ()
        shared = [name for name in class_names if name in theirs]
        if config.head == "by_name" and shared:
            return "adapted", f"classes: {', '.join(shared)}", rows_by_name(own, found, theirs, class_names)
        if config.head is None and own.shape == found.shape:
            names = f"the network's classes are {', '.join(class_names)}, the weights' {', '.join(theirs)}"
            raise _Mismatch("init.head=new or by_name", names)
        if config.head == "by_name":
            raise _Mismatch("init.head=new", f"no class of the network is one of the weights' ({', '.join(theirs)})")
    if found is None and config.head == "by_name":
        return "new", "init.head", None
    if matches_any(name, config.allow_missing):
        return "new", "init.allow_missing", None
    raise _Mismatch("init.head=new" if config.head else "init.head=new or by_name")


def _leave_unused(name: str, config: InitConfig) -> tuple[What, str]:
    """Return (what, how) for a tensor that the network does not have; raise _Mismatch."""
    if matches_any(name, config.allow_unused):
        return "unused", "init.allow_unused"
    is_head = matches_any(name, HEADS)
    if is_head and config.head is not None:
        return "unused", "init.head"
    raise _Mismatch("init.head=new or by_name" if is_head else "init.allow_unused")


def adapt_input(weight: mx.array, channels: int, how: Literal["repeat", "mean", "first"]) -> mx.array:
    """Return a convolution's weight (O, kD, kH, kW, I) for another number of input channels.

    repeat cycles through the weights' channels; mean gives every channel their mean; first keeps the first ones and
    sets further ones to 0. The result is scaled by I over the number of new channels that are not 0. An image with
    equal channels then gives the same activations as before: exactly under `mean`, under `first` with more channels,
    and under `repeat` where the new number is a multiple of I.
    """
    there = weight.shape[-1]
    if how == "first":
        extra = max(0, channels - there)
        kept = mx.pad(weight[..., :channels], [(0, 0)] * 4 + [(0, extra)])
        return kept * (there / min(there, channels))
    if how == "mean":
        weight = weight.mean(axis=-1, keepdims=True)
    return weight[..., mx.arange(channels) % weight.shape[-1]] * (there / channels)


def rows_by_name(own: mx.array, found: mx.array, theirs: Sequence[str], ours: Sequence[str]) -> mx.array:
    """Return `own` (classes, ...) with the rows of shared classes taken from `found`."""
    return mx.stack([found[theirs.index(name)] if name in theirs else own[row] for row, name in enumerate(ours)])


def input_weights(model: nn.Module) -> Iterator[str]:
    """Yield the names of the weights of the convolutions that take the image."""
    for name, layer in model.named_modules():
        if getattr(layer, "input_grad", True) is False:  # a ConvBlock that takes the image needs no input gradient
            yield f"{name}.conv.weight"


def format_start(start: Start) -> str:
    """Return the table of tensors as aligned text, and a line that counts them."""
    rows = [(row.name, row.what, _shape(row.network), _shape(row.weights), row.how) for row in start.table]
    counts = ", ".join(f"{sum(row.what == kind for row in start.table)} {kind}" for kind in get_args(What))
    lines = aligned([("tensor", "", "network", "weights", ""), *rows])
    return "\n".join([*lines, f"init        {counts}; weights of {start.facts['file']}"])


def _shape_of(array: mx.array | None) -> tuple[int, ...] | None:
    return None if array is None else tuple(array.shape)


def _shape(value: mx.array | tuple[int, ...] | None) -> str:
    shape = value if isinstance(value, tuple) else _shape_of(value)
    return "none" if shape is None else f"({', '.join(map(str, shape))})"
