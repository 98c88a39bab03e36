"""Dropout layers of a network: made from the config, drawn, listed, and changed during a run."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from configs.schema.model import DropoutArgs
from models.layers.gradient_checkpointing import draw_once, is_recomputing

_log = logging.getLogger("mlx_volumes")

_KINDS = {nn.Dropout: "element", nn.Dropout2d: "channel", nn.Dropout3d: "channel"}


def make_dropout(dropout: DropoutArgs, place: str) -> nn.Module | None:
    """Return the config's dropout layer for `place`, or None where it has none."""
    if dropout.kind == "none" or place not in dropout.places:
        return None
    return nn.Dropout3d(dropout.rate) if dropout.kind == "channel" else nn.Dropout(dropout.rate)


def channel_mask(drop: nn.Dropout3d, x: mx.array) -> mx.array | None:
    """Draw the mask of an `nn.Dropout3d`, as the layer draws it: same random numbers, same channels.

    x is (N, D, H, W, C) or (D, H, W, C). Returns (N, C), or (1, C), float32, holding 0 or 1/(1-p); None where
    the layer is the identity.

    The rate may be an array (see `set_rate`), which the layer's own call can't take inside `mx.compile`.
    """
    if _is_identity(drop):
        return None
    if x.ndim not in (4, 5):
        raise ValueError(f"Dropout3d takes (N, D, H, W, C) or (D, H, W, C); got shape {x.shape}")
    keep, channels = drop._p_1, x.shape[-1]
    mask = _draw(drop, (*x.shape[:-4], 1, 1, 1, channels))
    return mask.reshape(-1, channels) * (1 / keep)


def apply_dropout(drop: nn.Module | None, x: mx.array) -> mx.array:
    """Return drop(x); MLX's own layers take a rate that is an array, and are drawn once under recomputation."""
    if drop is None:
        return x
    if type(drop) is nn.Dropout3d:
        return apply_channel_mask(channel_mask(drop, x), x)
    if type(drop) is nn.Dropout:
        if _is_identity(drop):
            return x
        mask = _draw(drop, x.shape)
        return x * (mask * (1 / drop._p_1)).astype(x.dtype)
    if is_recomputing() and drop.training and not isinstance(drop, nn.Identity):
        raise ValueError(
            f"recompute runs a block twice and can repeat only the masks of nn.Dropout and nn.Dropout3d; "
            f"got {type(drop).__name__}: set model.args.recompute=false"
        )
    return drop(x)


def apply_channel_mask(mask: mx.array | None, x: mx.array) -> mx.array:
    """Return x (N, D, H, W, C) times mask (N, C); None is the identity."""
    if mask is None:
        return x
    shape = (*x.shape[:-4], 1, 1, 1, x.shape[-1])
    return x * mask.reshape(shape).astype(x.dtype)


def dropout_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, layer) of each dropout layer in the model, in the order in which the model names them."""
    for name, child in tree_flatten(model.children(), is_leaf=nn.Module.is_module):
        if isinstance(child, tuple(_KINDS)):
            yield name, child
        yield from ((f"{name}.{path}", layer) for path, layer in dropout_layers(child))


def set_rate(model: nn.Module, rate: float) -> None:
    """Set the rate of all dropout layers, in a compiled step too.

    The rate becomes an array in `model.state`, which a compiled step that captures the state reads at each
    call; a Python number would be frozen into it. Raises ValueError unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate} must be at least 0 and below 1")
    for _, layer in dropout_layers(model):
        layer._p_1 = mx.array(1 - rate, mx.float32)


@contextmanager
def held_masks(model: nn.Module, seed: int) -> Iterator[None]:
    """Let the dropout layers drop within the context, each with one fixed mask; nothing else is in training mode.

    The mask is drawn from the seed, for one sample, and serves all samples and calls, so that the network is one
    draw of those that dropout trained (Gal and Ghahramani 2016, arXiv:1506.02142). Element-wise masks are as
    large as the layer's input: inputs of one size share them. `mx.random`'s state does not change. Raises
    ValueError where no layer drops anything, or one is neither nn.Dropout nor nn.Dropout3d.
    """
    layers = [(path, layer) for path, layer in dropout_layers(model) if float(layer._p_1) < 1]
    if not layers:
        raise ValueError("the model has no dropout layer with a rate above 0, so that all its samples would be equal")
    for path, layer in layers:
        if type(layer) not in (nn.Dropout, nn.Dropout3d):
            raise ValueError(f"{path}: masks of nn.Dropout and nn.Dropout3d can be held; got {type(layer).__name__}")
    modes = [layer.training for _, layer in layers]
    keys = mx.random.split(mx.random.key(seed), len(layers))
    try:
        for (_, layer), key in zip(layers, keys, strict=True):
            layer._mask_key = key
            layer.train()
        yield
    finally:
        for (_, layer), mode in zip(layers, modes, strict=True):
            layer.pop("_mask_key", None)
            layer.train(mode)


@dataclass(frozen=True)
class DropoutRow:
    """A dropout layer as the model has it."""

    path: str
    kind: str  # element | channel
    rate: float
    place: str  # as the network names it: encoder, bottleneck, decoder, skip, body, head
    position: str  # in its block, as ConvBlock.effective_position; empty where it is in none


def dropout_table(model: nn.Module) -> list[DropoutRow]:
    """List the dropout layers that the built model has.

    The kind is that of the layer's class, the place that of its path, where the model names it (`dropout_paths`).
    """
    rows, modules, places = [], dict(model.named_modules()), _dropout_paths(model)
    for path, layer in dropout_layers(model):
        kind = next(name for cls, name in _KINDS.items() if isinstance(layer, cls))
        place = path.split(".")[0]
        place = place if place in places else "body"
        position = getattr(modules.get(path.rpartition(".")[0]), "effective_position", "")
        rows.append(DropoutRow(path, kind, round(1 - float(layer._p_1), 6), place, position))
    return rows


def kept_shares(model: nn.Module) -> dict[str, float]:
    """Return the expected share of channels kept on each path from one convolution to the next.

    model.dropout_paths(), where it has that, names for each path the places whose masks are on it; a place has one
    rate.
    """
    kept = {row.place: 1 - row.rate for row in dropout_table(model)}
    paths = _dropout_paths(model).items()
    return {path: round(math.prod(kept.get(place, 1.0) for place in places), 6) for path, places in paths}


def _dropout_paths(model: nn.Module) -> dict[str, tuple[str, ...]]:
    paths: dict[str, tuple[str, ...]] = getattr(model, "dropout_paths", dict)()
    return paths


def format_table(rows: list[DropoutRow]) -> str:
    """Return the rows as aligned text, one line a layer."""
    if not rows:
        return "no dropout layers"
    lines = [("layer", "kind", "rate", "place", "position")]
    lines += [(row.path, row.kind, f"{row.rate:g}", row.place, row.position) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def check_norms(model: nn.Module, recalibrates: bool) -> None:
    """Warn of dropout before batch norms, and of a recalibration without batch norms.

    In training such a norm's variance includes that of the masks; in evaluation there are none, and it divides by
    too much (Li et al. 2019, arXiv:1801.05134).
    """
    has_batch_norm = any(isinstance(layer, nn.BatchNorm) for layer in model.modules())
    if recalibrates and not has_batch_norm:
        _log.warning("train.recalibrate_norms=true: this network has no batch norm, so there is nothing to recalibrate")
    before = [row for row in dropout_table(model) if row.rate > 0 and row.place != "head"]
    if has_batch_norm and before and not recalibrates:
        _log.warning(
            "%d dropout layers (%s, rate %g) are before batch norms, whose statistics from training include the masks "
            "and do not fit evaluation, which has none (Li et al. 2019, arXiv:1801.05134); set model.args.norm to "
            "instance or group, keep dropout to the head of a classifier, or set train.recalibrate_norms=true",
            *(len(before), ", ".join(dict.fromkeys(row.place for row in before)), max(row.rate for row in before)),
        )


def _draw(drop: nn.Module, shape: tuple[int, ...]) -> mx.array:
    """Booleans, true where the layer keeps; within `held_masks` the same for all samples (axis 0 of 5)."""
    key = drop.get("_mask_key")
    if key is None:
        return draw_once(lambda: mx.random.bernoulli(drop._p_1, shape))
    one = (1, *shape[1:]) if len(shape) == 5 else shape
    return mx.broadcast_to(mx.random.bernoulli(drop._p_1, one, key), shape)


def _is_identity(drop: nn.Module) -> bool:
    keep = drop._p_1
    return not drop.training or (not isinstance(keep, mx.array) and keep == 1)
