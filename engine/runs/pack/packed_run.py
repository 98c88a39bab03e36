"""A pack read as a run: `evaluate.py --run model.zip`, and weights to start from."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import yaml
from mlx.utils import tree_flatten, tree_unflatten

from configs import Config
from engine.runs.pack.archive import Archive, PackError
from engine.runs.pack.config import read_config
from engine.runs.pack.manifest import Facts, read_facts, require_fit
from engine.runs.pack.tensors import decode_tensors
from engine.runs.run_folder import RunFolder

_MODEST = 64  # what strides, dilations and the like may be in any network
_MAX_ACTIVATIONS = 1 << 35  # of a layer at the input's size, as wide as the widest: 128 GiB


@dataclass(frozen=True)
class Pack:
    """A pack without its weights, all of it checked. The config's paths are neutral: none is the pack's own."""

    path: Path
    facts: Facts
    config: Config


def read_pack(path: Path | str) -> Pack:
    """Return the pack at `path`. Raises PackError in one line where it is broken, of another format, or unsound."""
    path = Path(path)
    with Archive(path) as archive:
        facts = read_facts(archive.read("pack.json"), path)
        config = read_config(_verified(archive, "config.yaml", facts), path)
    require_fit(facts, config, path)
    return Pack(path, facts, config)


def read_weights(path: Path | str) -> dict[str, mx.array]:
    """Return the pack's tensors by name, float32, after checking their hash. Raises PackError as `read_pack` does."""
    path = Path(path)
    with Archive(path) as archive:
        facts = read_facts(archive.read("pack.json"), path)
        content = _verified(archive, "model.safetensors", facts)
    return decode_tensors(content, path / "model.safetensors")


def load_packed(path: Path, build: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that `build` makes with the pack's weights, and what metrics.json says about them.

    Raises PackError where the config asks for another network than the weights are of. The weights are looked at
    before it is built, so that a config cannot ask for more than there is.
    """
    pack, tensors = read_pack(path), read_weights(path)
    _require_plausible(pack, tensors)
    try:
        model = build()
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise PackError(path, f"no network can be built from its config ({error})") from None
    expected = dict(tree_flatten(model.parameters()))
    for name in sorted(expected.keys() | tensors.keys()):  # nothing of `expected` is computed: MLX is lazy
        want = tuple(expected[name].shape) if name in expected else None
        have = tuple(tensors[name].shape) if name in tensors else None
        if want != have:
            raise PackError(path, f"weights and config differ: {name} is {have}, the config's network has {want}")
    model.update(tree_unflatten(list(tensors.items())))
    mx.eval(model.parameters())
    checkpoint = pack.facts.checkpoint
    return model, {"name": checkpoint.name, "step": checkpoint.step, "weights": checkpoint.weights, "path": str(path)}


class PackedRun(RunFolder):
    """What a run's folder tells, from a pack. Outputs go into the folder that the pack is named after, beside it.

    model.zip is never unpacked: model/ holds eval/ and what is cached, no more.
    """

    def __init__(self, path: Path | str) -> None:
        self.pack = read_pack(path)
        if self.pack.path.suffix != ".zip":  # else its folder would have the pack's own name
            raise PackError(self.pack.path, "a pack's name ends in .zip")
        super().__init__(self.pack.path.with_suffix(""))
        self._require_own(self.path / ".cache")
        self.config_path = self.pack.path / "config.yaml"  # for messages

    def exists(self) -> bool:
        return True

    def read_config_tree(self) -> dict[str, Any]:
        tree = self.pack.config.model_dump(mode="json", by_alias=True)
        tree["run"]["dir"] = str(self.path)
        return tree

    def read_config_text(self) -> str:
        text: str = yaml.safe_dump(self.read_config_tree(), sort_keys=False, allow_unicode=True)
        return text

    def read_json(self, name: str) -> Any:
        if name == "statistics":
            return self.pack.facts.statistics.model_dump(mode="json")
        if name == "temperature":
            return self._temperatures()
        raise ValueError(
            f"{self.pack.path}: a pack holds no cases and no splits; predict with --images FOLDER, or evaluate "
            "labelled data with --split all data.root=FOLDER"
        )

    def has_json(self, name: str) -> bool:
        return name == "statistics" or (name == "temperature" and bool(self.pack.facts.temperatures))

    def _temperatures(self) -> dict[str, Any]:
        """As a run's temperature.json has them."""
        checkpoint = self.pack.facts.checkpoint
        fitted_on = {"step": checkpoint.step, "weights": checkpoint.weights}
        found: dict[str, Any] = {
            kind: {"temperature": value, "fitted_on": fitted_on} for kind, value in self.pack.facts.temperatures.items()
        }
        return {**found.pop("plain", {}), **found}

    def checkpoint(self, name: str | None = None) -> Path:
        """Return the pack itself: it holds one. `best` is what `init.checkpoint` asks for unless told."""
        if name not in (None, "best", self.pack.facts.checkpoint.name):
            raise ValueError(f"{self.pack.path}: a pack holds one checkpoint; leave out --checkpoint {name}")
        return self.pack.path

    def evaluation(self, split: str) -> Path:
        """Raises ValueError where that would be within another run, or elsewhere by a link."""
        folder = self.path / "eval" / split
        if RunFolder(self.path).exists():
            raise ValueError(f"{self.path} is another run: set --output FOLDER, or move the pack")
        self._require_own(folder)
        return folder

    def _require_own(self, folder: Path) -> None:
        own = self.path.parent.resolve() / self.path.name
        if not folder.resolve().is_relative_to(own):
            raise ValueError(f"{folder} is a link to another place, where nothing is written; remove the link")


def open_run(path: Path | str) -> RunFolder:
    """Return the run of a folder, or of a pack where `path` is a file."""
    return PackedRun(path) if Path(path).is_file() else RunFolder.open(path)


def _verified(archive: Archive, name: str, facts: Facts) -> bytes:
    content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != facts.sha256[name]:  # type: ignore[index]
        raise PackError(archive.path, f"{name} differs from its SHA-256 in pack.json; fetch the pack again")
    return content


def _require_plausible(pack: Pack, tensors: dict[str, mx.array]) -> None:
    """Raise PackError where the config names sizes that no tensor has, or more layers than there are tensors."""
    args, statistics = pack.config.model.args, pack.facts.statistics
    largest = max(_MODEST, *(n for tensor in tensors.values() for n in tensor.shape))
    sizes = [*_whole_numbers(args.model_dump()), statistics.num_channels, len(statistics.class_names)]
    if (layers := args.fewest_tensors()) > len(tensors) or max(sizes) > largest:
        raise PackError(
            pack.path,
            f"its config describes another network than its weights, {len(tensors)} tensors of up to {largest}: "
            f"at least {layers}, sizes of up to {max(sizes):,}",
        )
    _, size, _, batch = pack.config.kind.predicted(pack.config)
    widest = max((tensor.shape[0] for tensor in tensors.values() if tensor.ndim == 5), default=1)
    if (values := math.prod(size) * batch * widest) > _MAX_ACTIVATIONS:
        raise PackError(
            pack.path,
            f"{batch} inputs of {size} through {widest} channels, {values:,} values, exceed the limit for a "
            f"pack, {_MAX_ACTIVATIONS:,}",
        )
    held = sum(tensor.size for tensor in tensors.values())
    if held != pack.facts.parameters:
        raise PackError(pack.path, f"pack.json states {pack.facts.parameters:,} numbers, the weights hold {held:,}")


def _whole_numbers(tree: Any) -> Iterator[int]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from _whole_numbers(value)
    elif isinstance(tree, int):
        yield tree
