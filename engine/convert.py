"""Convert published PyTorch weights to a .safetensors file that `init.from` takes.

python -m engine.convert weights.pth out.safetensors --as r3d_18

PyTorch is needed here alone (pip install torch).
"""

import argparse
import math
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml
from mlx.utils import tree_flatten

from machine.terminal import say
from models import MODELS, build_model
from models.weights.published import PUBLISHED, model_args

_NESTS = ("state_dict", "model_state_dict", "model", "net", "network")  # under which training scripts keep weights
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile, and modules that hold it


@dataclass(frozen=True)
class Conversion:
    """Weights named and laid out as ours, and what did not map. Names are `ours <- theirs` where they have both."""

    tensors: dict[str, np.ndarray]  # float32
    model: dict[str, Any]  # the config's `model` section
    in_channels: int
    missing: tuple[str, ...]  # in the file
    missing_head: tuple[str, ...]
    other_shapes: tuple[str, ...]
    unused: tuple[str, ...]  # tensors of the file
    ignored: tuple[str, ...]  # tensors of a head of another kind

    @property
    def is_whole(self) -> bool:
        """Whether all mapped, but for a classifier that the file may lack."""
        return not (self.missing or self.other_shapes or self.unused)


def convert(state: Mapping[str, np.ndarray], architecture: str) -> Conversion:
    """Map weights {name: array} of PyTorch's layout to ours.

    architecture: one of `published.PUBLISHED`. Convolutions (O, I, kD, kH, kW) become (O, kD, kH, kW, I). Counters
    of batches are left out: batch norm here has none. Raises ValueError where the first convolution is not there.
    """
    published = PUBLISHED[architecture]
    state = {name: array for name, array in strip_prefix(state).items() if not name.endswith("num_batches_tracked")}
    stem = state.get(published.stem)
    if stem is None or stem.ndim != 5 or stem.size == 0:
        raise ValueError(f"no {published.stem} (out, in, kD, kH, kW) among {len(state)} tensors: not a {architecture}")
    section = {"name": published.model, "args": model_args(published, state)}
    fc = state.get(published.name_there("head.fc.bias"))
    num_outputs = 1 if fc is None else len(fc)
    ours = expected_shapes(section, stem.shape[1], num_outputs)

    tensors: dict[str, np.ndarray] = {}
    missing: list[str] = []
    missing_head: list[str] = []
    other_shapes: list[str] = []
    for name, shape in ours.items():
        there = published.name_there(name)
        if there not in state:
            absent = missing_head if name.startswith("head.") else missing
            absent.append(f"{name} <- {there}")
            continue
        array = to_channels_last(state[there])
        if array.shape != shape:
            other_shapes.append(f"{name} {shape} <- {there} {state[there].shape}")
        tensors[name] = array
    known = {published.name_there(name) for name in ours}
    left = sorted(state.keys() - known)
    ignored = tuple(name for name in left if name.startswith(published.ignored))
    return Conversion(
        tensors,
        section,
        stem.shape[1],
        tuple(missing),
        tuple(missing_head),
        tuple(other_shapes),
        tuple(name for name in left if name not in ignored),
        ignored,
    )


def expected_shapes(section: Mapping[str, Any], in_channels: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the network of a config's `model` section; nothing of it is computed."""
    args = MODELS[section["name"]].args.model_validate(section["args"])
    model = build_model(section["name"], args, in_channels, num_outputs)
    return {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}


def to_channels_last(array: np.ndarray) -> np.ndarray:
    """(O, I, kD, kH, kW) -> (O, kD, kH, kW, I), contiguous; anything else stays as it is."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1)) if array.ndim == 5 else array


def strip_prefix(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the same arrays, without what wrappers put before all names."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return strip_prefix({name.removeprefix(prefix): array for name, array in state.items()})
    return dict(state)


def read_pytorch(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a PyTorch file, float32, by name; nothing in the file is run (weights_only=True).

    Raises ValueError for a file that is not there, not whole, or holds anything but tensors.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("engine.convert reads PyTorch's files with PyTorch: pip install torch") from None
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: holds more than tensors; save only the model's state_dict()") from None
    except Exception as error:  # what is no pickle may raise anything on the way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path}: not a whole PyTorch file ({reason})") from None
    while isinstance(found, Mapping) and (
        inner := [found[key] for key in _NESTS if isinstance(found.get(key), Mapping)]
    ):
        found = inner[0]
    tensors = {n: t for n, t in found.items() if torch.is_tensor(t)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path}: expected a state_dict, {{name: tensor}}, got {type(found).__name__}")
    try:
        return {str(name): tensor.float().numpy() for name, tensor in tensors.items()}
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{path}: holds tensors that are not dense ({error})") from None


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write the file at once: a kill leaves none, or the whole."""
    temporary = path.with_name(f".{path.name}")
    arrays = {name: mx.array(array) for name, array in sorted(tensors.items())}
    mx.save_safetensors(str(temporary), arrays, {"format": "mlx", **metadata})
    temporary.replace(path)


def describe(conversion: Conversion) -> str:
    """Return what did not map, as text; empty where all did."""
    lists = {
        "missing in the file": conversion.missing,
        "of another shape": conversion.other_shapes,
        "unused in the file": conversion.unused,
        "no classifier in the file (init.head=new draws one)": conversion.missing_head,
        "left out, a head for another task": conversion.ignored,
    }
    return "\n".join(
        line for title, names in lists.items() if names for line in (f"{title}:", *(f"  {n}" for n in names))
    )


def describe_config(conversion: Conversion, out: Path, variable: bool) -> str:
    """Return the YAML that a config needs to start from the file."""
    args, init = (
        yaml.safe_dump(section, default_flow_style=True, sort_keys=False, width=math.inf).strip()
        for section in (conversion.model["args"], {"from": str(out), "head": "new"})
    )
    note = " # strides and pooling are MONAI's defaults: the weights do not record them" if variable else ""
    lines = [
        "task: classification",
        f"model: {{name: {conversion.model['name']}, args: {args}}}{note}",
        f"init: {init} # input channels: {conversion.in_channels}; init.input takes another number",
    ]
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.convert",
        description="Convert published PyTorch weights for init.from, and print the config that fits them.",
        epilog="Exit code: 0, 1 where tensors other than the classifier did not map (nothing is written then), 2 for a "
        "mistake in the command.",
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.pth")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument(
        "--as", dest="architecture", required=True, choices=PUBLISHED, metavar="NAME", help=", ".join(PUBLISHED)
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        if arguments.out.suffix != ".safetensors":
            raise ValueError(f"{arguments.out}: the output's name must end in .safetensors")
        if not arguments.out.parent.is_dir():
            raise ValueError(f"{arguments.out}: there is no folder {arguments.out.parent}")
        conversion = convert(read_pytorch(arguments.weights), arguments.architecture)
    except ValueError as error:
        say(f"engine.convert: {error}", sys.stderr)
        return 2
    if problems := describe(conversion):
        say(problems, sys.stderr)
    if not conversion.is_whole:
        problem = f"{arguments.weights} does not fit {arguments.architecture}; nothing is written"
        say(f"engine.convert: {problem}", sys.stderr)
        return 1
    metadata = {"architecture": arguments.architecture, "source": arguments.weights.name}
    write_safetensors(arguments.out, conversion.tensors, metadata)
    say(f"# {len(conversion.tensors)} tensors in {arguments.out}; a config that starts from them has")
    say(describe_config(conversion, arguments.out, PUBLISHED[arguments.architecture].variable))
    return 0


if __name__ == "__main__":
    sys.exit(main())
