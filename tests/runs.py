"""Tiny data sets, configs and runs, for what the scripts do from end to end."""

import csv
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest
import yaml
from mlx.utils import tree_flatten

import evaluate
import train
from configs.schema.load import apply_overrides
from data.dataset import open_data
from data.synthetic.phantoms import write_phantoms
from engine.config import check_config, load_config
from engine.runs.checkpoints import save_checkpoint
from engine.runs.run_folder import RunFolder
from models import build_model

Capture = pytest.CaptureFixture[str]


def write_config(folder: Path, *overrides: str, cases: int = 5) -> Path:
    """Write phantoms of 3 mm voxels, and the config of two steps of a U-Net of two levels on voxels of 5 mm."""
    write_phantoms(folder / "data", cases, seed=0, shape=(20, 28, 24))
    tree: dict[str, Any] = {
        "name": "tiny",
        "ops": "mlx",
        "run": {"dir": str(folder / "runs")},
        "data": {"root": str(folder / "data"), "cache": {"folder": str(folder / "cache")}},
        "model": {"args": {"widths": [2, 4], "convolutions": 1}},
        "train": {"steps": 2, "log_every_steps": 1},
    }
    tree["data"] |= {"spacing_mm": [5, 5, 5], "patch_size_voxels": [8, 8, 8]}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(apply_overrides(tree, overrides)))
    return file


def trained(config: Path, *arguments: str) -> RunFolder:
    """Train as train.py does; return the run."""
    assert train.main(["--config", str(config), *arguments]) == 0
    overrides = [argument for argument in arguments if not argument.startswith("--")]
    return RunFolder.open(load_config(config, overrides).run_folder)


def evaluated(*arguments: object) -> None:
    """Evaluate as evaluate.py does: the run or runs, then options and overrides."""
    assert evaluate.main(["--run", *map(str, arguments)]) == 0


def refused(script: ModuleType, capsys: Capture, *arguments: object) -> str:
    """What a script says before it exits with 2: its name and a message."""
    capsys.readouterr()
    assert script.main([str(argument) for argument in arguments]) == 2
    printed, said = capsys.readouterr()
    assert printed == "" or script.__name__ != "plan"  # what plan.py prints is a config
    assert re.search(rf"^{script.__name__}\.py: ", said, re.MULTILINE)
    assert "Traceback" not in said
    return said


def read_metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def read_rows(folder: Path, name: str = "cases.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def save_drawn(run: RunFolder, seed: int, step: int = 5, best: bool = True, averaged: bool = False) -> None:
    """Save a checkpoint of the run's network as it is drawn; averaged weights are half of these."""
    config = check_config(run.read_config_tree(), "test")
    data = open_data(config)
    mx.random.seed(seed)
    model = build_model(config.model.name, config.model.args, data.num_channels, data.num_outputs)
    weights = dict(tree_flatten(model.parameters()))
    tensors = {"model": weights, **({"ema": {name: a * 0.5 for name, a in weights.items()}} if averaged else {})}
    save_checkpoint(run.checkpoints, tensors, {"step": step}, best=best, keep=2)


def untrained(tree: dict[str, Any], seed: int | None = None) -> RunFolder:
    """A run of which nothing was trained, but whose data are there; of a seed, with a checkpoint at step 5."""
    config = check_config(tree, "test")
    data = open_data(config)
    run = RunFolder.create(config)
    for name, value in (("splits", data.splits), ("statistics", data.statistics), ("skipped", [])):
        run.write_json(name, value)
    if seed is not None:
        save_drawn(run, seed)
    return run


def phantom_lists(root: Path, **more: Any) -> dict[str, Any]:
    """`data` of four phantoms: 0 and 1 for training, 2 and 3 for validation, patches of 8³."""
    split = {"kind": "lists", "train": ["phantom_000", "phantom_001"], "val": ["phantom_002", "phantom_003"]}
    return {"root": str(root), "patch_size_voxels": [8, 8, 8], "split": split, **more}


def given_archive(root: Path) -> dict[str, Any]:
    """`data` of an .npz archive of volumes of 6³, as it is split."""
    return {"source": "medmnist", "root": str(root), "split": {"kind": "given"}, "patch_size_voxels": [6, 6, 6]}
