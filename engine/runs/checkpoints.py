"""Checkpoints: written aside, flushed to disk and renamed, so that a kill leaves the last whole one.

A checkpoint is a folder named after its step:

    model.safetensors      parameters and batch-norm statistics
    ema.safetensors        their moving average, where the run keeps one
    optimizer.safetensors  the optimiser's state and the random keys
    state.json             step, position, scores, the config, and size and checksum of the files above

`last` and `best` are relative links to two of them.
"""

import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from engine.runs.run_files import read_json
from engine.runs.run_folder import without_nan
from machine import disk

_log = logging.getLogger("mlx_volumes")

STATE_FILE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken, or doesn't fit the model."""


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, mx.array]], state: Mapping[str, Any], best: bool, keep: int
) -> Path:
    """Write folder/<step>, point `last` (and `best`) at it, remove all but the last `keep` and the best.

    tensors: file name without suffix -> flat {name: array}. state: JSON-able, holds `step`.

    Raises OSError with the file and the fix, having removed what it wrote, when the disk is full.
    """
    disk.make_folder(folder)
    target = folder / str(state["step"])
    temporary = folder / f".writing-{target.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        files = {}
        for name, arrays in tensors.items():
            files[f"{name}.safetensors"] = _write_tensors(temporary / f"{name}.safetensors", arrays)
        text = json.dumps(without_nan({**state, "files": files}), indent=1, allow_nan=False)
        disk.write_flushed(temporary / STATE_FILE, text.encode())
        disk.flush_folder(temporary)
    except (OSError, RuntimeError) as error:  # MLX reports a failed write as RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{target}: the checkpoint could not be written ({error}); earlier checkpoints are untouched: continue "
            "with --resume"
        ) from error
    _replace_folder(temporary, target)
    point(folder, "last", target.name)
    if best:
        point(folder, "best", target.name)
    remove_old(folder, keep)
    return target


def _write_tensors(path: Path, arrays: Mapping[str, mx.array]) -> dict[str, int]:
    """Write one file to the disk itself; return its size and checksum, read back from what was written."""
    with disk.writing(path):
        mx.save_safetensors(str(path), dict(sorted(arrays.items())), {"format": "mlx"})  # the same order in each file
        facts = _size_and_checksum(path)
        expected = sum(a.nbytes for a in arrays.values())
        if facts["bytes"] < expected:
            raise OSError(f"{path.name} holds {facts['bytes']} bytes of {expected}; is its disk full?")
        with path.open("rb") as file:
            disk.flush(file.fileno())
    return facts


def _size_and_checksum(path: Path) -> dict[str, int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
            size += len(block)
    return {"bytes": size, "crc32": checksum}


def _replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`; a folder of that name (the same step, saved again) is moved aside before.

    A kill between the two renames leaves `.replaced-<step>`, which `restore_replaced` puts back.
    """
    aside = target.with_name(f".replaced-{target.name}")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    source.rename(target)
    disk.flush_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_replaced(folder: Path) -> None:
    """Undo what a kill left half done in `folder`."""
    for aside in folder.glob(".replaced-*"):
        target = folder / aside.name.removeprefix(".replaced-")
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)
    for unfinished in [*folder.glob(".writing-*"), *folder.glob(".removed-*")]:
        shutil.rmtree(unfinished)


def point(folder: Path, name: str, target: str) -> None:
    """Make the link folder/name lead to folder/target, at once."""
    link = folder / f".{name}-link"
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)
    link.replace(folder / name)
    disk.flush_folder(folder)


def steps_in(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint in `folder`, ascending; none is opened."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit() and p.is_dir())


def remove_old(folder: Path, keep: int) -> None:
    best = (folder / "best").resolve().name
    for step in steps_in(folder)[:-keep]:
        if str(step) != best:
            aside = folder / f".removed-{step}"  # at once: a kill leaves no half of a checkpoint under its name
            (folder / str(step)).rename(aside)
            shutil.rmtree(aside)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the contents of state.json, after checking size and checksum of each file that it lists.

    Raises CheckpointError naming the first file that is missing, truncated or changed.
    """
    try:
        state: dict[str, Any] = read_json(checkpoint / STATE_FILE)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: not a complete checkpoint ({error})") from None
    for name, expected in state["files"].items():
        try:
            found = _size_and_checksum(checkpoint / name)
        except OSError as error:
            raise CheckpointError(f"{checkpoint}: not a complete checkpoint ({error})") from None
        if found["bytes"] != expected["bytes"]:
            raise CheckpointError(
                f"{checkpoint / name}: expected {expected['bytes']} bytes, found {found['bytes']}; "
                "the checkpoint is incomplete: use another one"
            )
        if found["crc32"] != expected["crc32"]:
            raise CheckpointError(
                f"{checkpoint / name}: the contents changed since it was written (checksum); use another checkpoint"
            )
    return state


def latest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the latest whole checkpoint of `folder` and its state; broken ones are passed over with a warning.

    None where there is no checkpoint at all. Raises CheckpointError where there are only broken ones.
    """
    restore_replaced(folder)
    problems = []
    for step in reversed(steps_in(folder)):
        try:
            return folder / str(step), read_state(folder / str(step))
        except CheckpointError as error:
            problems.append(str(error))
            _log.warning("%s; falling back to the one before", error)
    if problems:
        raise CheckpointError("no complete checkpoint left:\n  " + "\n  ".join(problems))
    return None


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Return the arrays of one safetensors file; raises CheckpointError where it can't be read."""
    try:
        arrays = mx.load(str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    assert isinstance(arrays, dict)
    return arrays


def load_weights(model: nn.Module, checkpoint: Path, weights: str = "ema") -> str:
    """Put a checkpoint's weights into the model; return which were taken.

    weights: "ema" takes the moving average where the checkpoint has one, otherwise "raw", as does "raw".

    Raises CheckpointError that lists every tensor that is missing, unexpected or of another shape.
    """
    taken = "ema" if weights == "ema" and (checkpoint / "ema.safetensors").exists() else "raw"
    file = checkpoint / ("ema.safetensors" if taken == "ema" else "model.safetensors")
    load_parameters(model, read_tensors(file), file)
    return taken


def load_parameters(model: nn.Module, arrays: Mapping[str, mx.array], file: Path) -> None:
    """Put flat {name: array} into the model, which must have exactly these; `file` opens the message."""
    check_same_tensors(dict(tree_flatten(model.parameters())), arrays, file)
    model.update(tree_unflatten(list(arrays.items())))
    mx.eval(model.parameters())


def check_same_tensors(expected: Mapping[str, mx.array], found: Mapping[str, mx.array], file: Path) -> None:
    """Raise CheckpointError with a line for each tensor that differs in presence or shape."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        want = tuple(expected[name].shape) if name in expected else None
        have = tuple(found[name].shape) if name in found else None
        if want != have:
            lines.append(f"  {name}: the model has {_shape(want)}, the file {_shape(have)}")
    if lines:
        head = f"{file}: {len(lines)} tensor(s) don't fit this model; was it built from another config?"
        raise CheckpointError("\n".join([head, *lines]))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(shape)
