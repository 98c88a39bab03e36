"""Reads the weights that `init.from` names."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from configs import Config
from configs.schema.weights import InitConfig
from engine.distributed.group import Group
from engine.runs.checkpoints import read_state, read_tensors
from engine.runs.pack import read_pack, read_weights
from engine.runs.run_folder import RunFolder

What = Literal["loaded", "adapted", "new", "unused"]


@dataclass(frozen=True)
class Row:
    """Whether one tensor was loaded, and how."""

    name: str
    what: What
    network: tuple[int, ...] | None  # its shape in the network; None: the network has no such tensor
    weights: tuple[int, ...] | None
    how: str = ""


@dataclass
class Start:
    """Weights by name, where they are from, and, once a network has them, a row for each."""

    tensors: dict[str, mx.array]
    class_names: tuple[str, ...] | None  # of the last layers' outputs; None: the file does not name them
    facts: dict[str, Any]  # JSON-able: "from", "file", then "step" and "weights", or "metadata"
    table: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of a run's init.json."""
        return {**self.facts, "class_names": self.class_names, "tensors": [asdict(row) for row in self.table]}


def read_start(config: InitConfig) -> Start:
    """Return the weights of a run, a checkpoint, a .safetensors file or a pack.

    Raises ValueError, which names init.from, where they are missing or broken.
    """
    path = config.source
    try:
        start = _read(path, config)
    except ValueError as error:
        raise ValueError(f"init.from={path}: {error}") from None
    if config.head == "by_name" and start.class_names is None:
        raise ValueError(f"init.head=by_name: {start.facts['file']} does not name its classes; use new")
    return start


def _read(path: Path, config: InitConfig) -> Start:
    if not path.exists():
        raise ValueError("no such file or folder; expected a run, a checkpoint, a .safetensors file or a pack (.zip)")
    if path.suffix in (".pth", ".pt", ".ckpt"):
        raise ValueError(
            "PyTorch's weights: convert them first, python -m engine.convert FILE OUT.safetensors --as NAME"
        )
    if path.is_file() and path.suffix == ".safetensors":
        _require_default(config, "checkpoint", "weights")
        return _read_file(path)
    if path.is_file() and path.suffix == ".zip":
        _require_default(config, "checkpoint", "weights")
        pack = read_pack(path)
        facts = {"from": str(path), "file": str(path), "step": pack.facts.checkpoint.step}
        facts["weights"] = pack.facts.checkpoint.weights
        return Start(read_weights(path), tuple(pack.facts.statistics.class_names), facts)
    if path.is_dir() and (path / "state.json").is_file():
        _require_default(config, "checkpoint")
        return _read_checkpoint(path, config)
    if path.is_dir() and (path / "config.yaml").is_file():
        return _read_checkpoint(RunFolder(path).checkpoint(config.checkpoint), config)
    raise ValueError("expected a run's folder, a checkpoint's, a .safetensors file or a pack (.zip)")


def _require_default(config: InitConfig, *keys: str) -> None:
    """Raise ValueError where a key selects among several files and there is only one."""
    for key in keys:
        if (value := getattr(config, key)) != InitConfig.model_fields[key].default:
            raise ValueError(f"init.{key}={value} chooses within a run; init.from names a single file: leave it out")


def _read_file(path: Path) -> Start:
    tensors = read_tensors(path)
    loaded: Any = mx.load(str(path), return_metadata=True)
    # engine.convert writes the architecture there, and the name of the file it converted.
    return Start(tensors, None, {"from": str(path), "file": str(path), "metadata": dict(loaded[1])})


def _read_checkpoint(folder: Path, config: InitConfig) -> Start:
    state = read_state(folder)
    average = folder / "ema.safetensors"
    weights = "ema" if config.weights == "ema" and average.exists() else "raw"
    file = average if weights == "ema" else folder / "model.safetensors"
    facts = {"from": str(config.source), "file": str(file.resolve()), "step": state["step"], "weights": weights}
    return Start(read_tensors(file), _class_names(folder), facts)


def _class_names(checkpoint: Path) -> tuple[str, ...] | None:
    """Return the class names of the run that holds the checkpoint; None where it was moved out of its run."""
    run = RunFolder(checkpoint.resolve().parent.parent)
    return tuple(run.read_json("statistics")["class_names"]) if (run.path / "statistics.json").is_file() else None


def loaded_parameters(config: Config, start: Start | None, group: Group) -> set[str]:
    """Return the names of the parameters that `init` set; a resumed run reads them from its folder."""
    table: dict[str, Any] = {}
    if group.writes:
        table = RunFolder(config.run_folder).read_json("init") if start is None else start.to_json()
    rows = group.share_json(table).get("tensors", [])
    return {row["name"] for row in rows if row["what"] in ("loaded", "adapted")}
