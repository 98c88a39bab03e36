"""A run that was never trained, packed, and packs that were tampered with."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from configs import Config
from engine.config import check_config
from engine.runs.checkpoints import save_checkpoint
from engine.runs.pack import Pack, export_run
from engine.runs.pack.archive import write_archive
from engine.runs.run_folder import RunFolder
from models import build_model

SECRET = "SECRET"
"""Part of every path, case id and machine's name that the run knows of."""

CLASS_NAMES = ["background", "nucleus"]


def make_config(folder: Path, **sections: Any) -> Config:
    tree: dict[str, Any] = {
        "name": f"{SECRET}-study/small",
        "run": {"dir": str(folder / SECRET / "runs")},
        "data": {
            "root": f"/home/{SECRET}/data",
            "images": f"images_{SECRET}",
            "columns": {"image": f"{SECRET}_t1", "id": f"{SECRET}_id"},
            "cache": {"folder": f"/scratch/{SECRET}"},
            "patch_size_voxels": [8, 8, 8],
            "split": {"kind": "lists", "train": [f"{SECRET}_1"], "val": [f"{SECRET}_2"]},
        },
        "model": {"name": "unet3d", "args": {"widths": [2, 4], "norm": "batch"}},
        "init": {"from": f"/models/{SECRET}.safetensors"},
        "optim": {"decay_to_start": 0.01},
        "train": {"steps": 1, "batch_size": 1},
    }
    return check_config({**tree, **sections}, "test")


def make_model(config: Config, channels: int = 1, classes: int = 2) -> nn.Module:
    mx.random.seed(1)
    return build_model(config.model.name, config.model.args, channels, classes)


def write_run(folder: Path, **sections: Any) -> tuple[RunFolder, Config]:
    """A run with a checkpoint at step 3, `best` and `last`, whose averaged weights are half the raw ones."""
    config = make_config(folder, **sections)
    run = RunFolder(config.run_folder)
    run.path.mkdir(parents=True)
    run.write_config(config)
    facts: dict[str, Any] = {
        "statistics": {
            "class_names": CLASS_NAMES,
            "channel_names": ["T1"],
            "file_channels": 1,
            "num_channels": 1,
            "normalisation": "zscore",
            "intensities": None,
        },
        "splits": {"train": [f"{SECRET}_1"], "val": [f"{SECRET}_2"]},
        "skipped": [{"case": f"{SECRET}_3", "file": f"/home/{SECRET}/3.nii", "reason": "broken"}],
        "environment": {"command": ["train.py", f"data.root=/home/{SECRET}"], "host": SECRET},
    }
    for name, value in facts.items():
        run.write_json(name, value)
    weights = dict(tree_flatten(make_model(config).parameters()))
    averaged = {name: value * 0.5 for name, value in weights.items()}
    state = {"step": 3, "config": {"data": {"root": SECRET}}}
    save_checkpoint(run.checkpoints, {"model": weights, "ema": averaged}, state, best=True, keep=2)
    return run, config


def write_metrics(run: RunFolder, split: str = "val", step: int = 3, weights: str = "ema", **more: Any) -> None:
    """What evaluate.py leaves."""
    row = {"mean": 0.75, "sd": None, "median": 0.7, "interval_95": [0.5, 0.875], "num_cases": 4}
    metrics = {
        "split": split,
        "checkpoint": {"name": "best", "step": step, "weights": weights, "path": f"/home/{SECRET}/3"},
        "settings": {"data_root": f"/home/{SECRET}"},
        "num_cases": 4,
        "details": {"dice": {"nucleus": row, "mean": row}},
        "failed": [{"case": f"{SECRET}_9", "file": SECRET, "reason": SECRET}],
        "notes": [f"case {SECRET}_2 is odd"],
        **more,
    }
    folder = run.evaluation(split)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def write_pack(folder: Path, name: str = "model.zip", licence: str | None = "CC-BY-4.0", **sections: Any) -> Pack:
    """The pack of `write_run`, as folder/name."""
    run, config = write_run(folder, **sections)
    return export_run(folder / name, run, config, make_model(config), run.checkpoint("best"), "best", licence)


def read_members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_members(path: Path, changes: Mapping[str, bytes | Callable[[bytes], bytes]]) -> Path:
    """A pack beside `path` with these members changed, and hashes that fit them."""
    members = read_members(path)
    for name, change in changes.items():
        members[name] = change if isinstance(change, bytes) else change(members[name])
    facts = json.loads(members["pack.json"])
    facts["sha256"] = {name: hashlib.sha256(members[name]).hexdigest() for name in facts["sha256"]}
    members["pack.json"] = json.dumps(facts).encode()
    changed = path.with_name("changed.zip")
    write_archive(changed, members)
    return changed


def with_facts(path: Path, **facts: Any) -> Path:
    """A pack beside `path` whose pack.json says this instead."""
    return with_members(path, {"pack.json": lambda old: json.dumps({**json.loads(old), **facts}).encode()})
