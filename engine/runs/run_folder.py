"""A run's folder: its config, the facts written beside it, metrics.jsonl and the checkpoints' names."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from configs import Config
from configs.schema.load import read_tree, rename_old_keys
from engine.runs import run_files
from machine import disk

DEFAULT_CHECKPOINT = "last"
"""What is evaluated, predicted with and packed: no case has chosen it, and averaged weights need no choice. `best` is
the highest of many validations, by luck too, and its score on the cases that chose it is optimistic."""


class RunFolder:
    """One run on disk.

    config.yaml        the resolved config
    environment.json   versions, device, command, git revision, data fingerprint
    splits.json        {"train": [case ids], "val": [...], "test": [...]}
    files.json         what each file of the data holds, for resuming: see `data.prepare.fingerprint`
    statistics.json    of the training split, for normalisation wherever the run predicts
    init.json          where the first weights are from, and what became of each tensor, in a run with `init`
    skipped.json       [{"case", "file", "reason"}]
    metrics.jsonl      one object a line, see `append_metrics`
    checkpoints/       <step>/, and the links `last` and `best`
    eval/<split>/      what evaluate.py writes
    """

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        """writes: False in a process that leaves metrics and facts to another one."""
        self.path = Path(path)
        self.writes = writes
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.stop_path = self.path / "STOP"

    @classmethod
    def create(cls, config: Config) -> Self:
        """Return a new run's folder, its config written into it.

        Raises ValueError where a run of this name exists: none is ever overwritten.
        """
        run = cls(config.run_folder)
        run.require_absent()
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Return an existing run's folder; raises ValueError where there is none, or a sweep's."""
        run = cls(path)
        if run.has_json("sweep"):
            folders = [entry["folder"] for entry in run.read_json("sweep")["runs"]]
            begun = next((folder for folder in folders if cls(run.path / folder).exists()), folders[0])
            raise ValueError(
                f"{run.path}: this is a sweep, not a run; compare its cells with evaluate.py --compare {run.path}, or "
                f"give one of its runs, such as {run.path / begun}"
            )
        if not run.exists():
            raise ValueError(f"{run.path}: not a run: expected a folder with a config.yaml, written by train.py")
        return run

    def exists(self) -> bool:
        """Return whether a run was begun here; a folder with nothing but a dry run's picture is none."""
        return self.config_path.is_file()

    def require_absent(self) -> None:
        """Raise ValueError where the run exists."""
        if self.exists():
            raise ValueError(
                f"{self.path}: this run exists already; continue it with --resume, or choose another name=..."
            )

    def write_config(self, config: Config) -> None:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomically(self.config_path, text)

    def read_config_text(self) -> str:
        return self.config_path.read_text(encoding="utf-8")

    def read_config_tree(self) -> dict[str, Any]:
        """Return the resolved config as a plain tree, unchecked; keys of earlier versions have their present names.

        Raises ValueError where the file is no YAML of keys.
        """
        tree: dict[str, Any] = rename_old_keys(read_tree(self.config_path))
        return tree

    def evaluation(self, split: str) -> Path:
        return self.path / "eval" / split

    def checkpoint(self, name: str | None = None) -> Path:
        """Return the folder of a checkpoint: `best`, `last`, a step, or any path to one; None is DEFAULT_CHECKPOINT.

        Raises ValueError where there is none, with those that there are.
        """
        name = name or DEFAULT_CHECKPOINT
        for path in (self.checkpoints / name, Path(name)):
            if (path / "state.json").is_file():
                return path
        there = sorted(p.name for p in self.checkpoints.glob("*") if (p / "state.json").is_file())
        known = ", ".join(there) or "none yet"
        raise ValueError(f"checkpoint {name!r}: no such checkpoint in {self.checkpoints}; there are: {known}")

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as name.json; numbers that are not finite become null."""
        if not self.writes:
            return
        text = json.dumps(without_nan(value), indent=1, allow_nan=False, ensure_ascii=False)
        write_atomically(self.path / f"{name}.json", text + "\n")

    def read_json(self, name: str) -> Any:
        """Return the contents of name.json; raises ValueError where the file is missing or broken."""
        return run_files.read_json(self.path / f"{name}.json")

    def has_json(self, name: str) -> bool:
        return (self.path / f"{name}.json").is_file()

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line: {"step", "epoch", "split", values ...}. Lines survive a kill of the process."""
        if not self.writes:
            return
        with disk.writing(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(without_nan(line), allow_nan=False, ensure_ascii=False) + "\n")

    def flush_metrics(self) -> None:
        """Wait until the lines so far are on the disk: a checkpoint that is there counts on them."""
        if self.metrics_path.exists():
            with self.metrics_path.open("rb") as file:
                disk.flush(file.fileno())

    def read_metrics(self, split: str | None = None) -> list[dict[str, Any]]:
        """Return all lines, or those of one split.

        What is no such line is left out: a kill or a full disk cut it short.
        """
        lines = []
        if self.metrics_path.exists():
            for text in self.metrics_path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if run_files.what_is_wrong("metrics", line) is None:
                    lines.append(line)
        return [line for line in lines if split is None or line["split"] == split]

    def trim_metrics(self, step: int, validated_step: int) -> None:
        """Drop the lines after `step`, validations after `validated_step`: a resumed run writes them again."""
        if self.metrics_path.exists():
            last = {"train": step, "val": validated_step}
            kept = [line for line in self.read_metrics() if line["step"] <= last[line["split"]]]
            write_atomically(self.metrics_path, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in kept))


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at once: a kill or a loss of power leaves the old contents or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk.writing(path), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        disk.flush(file.fileno())
    temporary.replace(path)
    disk.flush_folder(path.parent)


def without_nan(value: Any) -> Any:
    """Return the same tree, NaN and infinities replaced by None: JSON knows neither."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
