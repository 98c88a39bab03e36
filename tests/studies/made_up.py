"""A sweep's folder with made-up runs, as train.py leaves one."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from configs.schema.load import apply_overrides

Cells = dict[str, dict[str, Any]]  # name -> settings

RATES: Cells = {
    "none": {"model.args.dropout.kind": "none"},
    "rate=0.1": {"model.args.dropout.kind": "channel", "model.args.dropout.rate": 0.1},
    "rate=0.3": {"model.args.dropout.kind": "channel", "model.args.dropout.rate": 0.3},
}
STEPS = 100

# Of twelve cases of two classes.
CASES = np.random.default_rng(9).normal(0, 0.03, (12, 2))
NOISE = 1e-3 * np.array([[3, -2, 1, 0, 4], [-1, 2, -3, 1, 0], [2, -4, 4, 2, -3]])  # of cells under seeds
EFFECTS = {"none": 0.0, "rate=0.1": 0.05, "rate=0.3": 0.001}


def dice(cell: str, seed: int, fold: int) -> np.ndarray:
    """Return 0.8 plus effects of cases, cells, seeds and folds; a twin of another cell has its numbers."""
    cell = {"<again>": "rate=0.1", "rate=0": "none"}.get(cell, cell)
    return 0.8 + CASES + EFFECTS[cell] + NOISE[list(RATES).index(cell), seed] + 0.01 * fold


def in_one_case(cell: str, seed: int, fold: int) -> np.ndarray:
    """The same without effects, less noise, and one case that is much worse in one cell."""
    values = 0.8 + CASES + NOISE[0, seed] + 0.01 * fold + NOISE[list(RATES).index(cell), seed] / 10
    values[0] -= 0.4 * (cell == "rate=0.1")
    return values


def write_sweep(
    folder: Path,
    dice: Callable[[str, int, int], np.ndarray],
    cells: Cells = RATES,
    seeds: Sequence[int] = (0, 1, 2),
    folds: Sequence[int] = (0,),
    same_as: dict[str, str] | None = None,
    **plan: Any,
) -> Path:
    """A segmentation's sweep. dice: (cell, seed, fold) -> (cases, 2), of two classes in each case."""
    planned = write_plan(folder, cells, seeds, folds, same_as, task="segmentation", metric="dice.mean", **plan)
    for run in planned:
        values = dice(run["cell"], run["seed"], run["fold"])
        where = write_run(folder, run, cells[run["cell"]])
        write_segmented(where / "eval" / "val", values, run["fold"])
        write_segmented(where / "eval" / "train", np.clip(values + 0.05, 0, 1), run["fold"])
    return folder


def write_plan(
    folder: Path,
    cells: Cells,
    seeds: Sequence[int],
    folds: Sequence[int],
    same_as: dict[str, str] | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    same = same_as or {}
    runs = [
        {"cell": cell, "seed": s, "fold": f, "folder": f"{cell}/seed{s}" + (f"-fold{f}" if len(folds) > 1 else "")}
        for s in seeds
        for f in folds
        for cell in cells
        if cell not in same
    ]
    rows = []
    for name, settings in cells.items():
        layers = dropout_of(settings)
        kept = {"encoder": 1 - layers[0][2] if layers else 1.0, "decoder": 1.0}
        dose = {"layers": len(layers), "kept": kept}
        rows.append({"name": name, "settings": settings, "dropout": layers, "dose": dose, "same_as": same.get(name)})
    head = {"name": folder.name, "mode": "max", "baseline": next(iter(cells)), "seeds": list(seeds), "train_cases": 4}
    folder.mkdir(parents=True)
    tree = {**head, "folds": list(folds), **plan, "cells": rows, "runs": runs}
    (folder / "sweep.json").write_text(json.dumps(tree))
    return runs


def dropout_of(settings: dict[str, Any]) -> list[list[Any]]:
    kind, rate = settings.get("model.args.dropout.kind"), settings.get("model.args.dropout.rate", 0.0)
    layers = [[f"encoder.{i}.dropout", kind, rate, "encoder", "after_activation"] for i in range(2)]
    return [] if kind == "none" else layers


def write_run(folder: Path, run: dict[str, Any], settings: dict[str, Any], **config: Any) -> Path:
    where = folder / run["folder"]
    where.mkdir(parents=True)
    tree: dict[str, Any] = {"name": run["folder"], "seed": run["seed"], "data": {"fold": run["fold"], "root": "."}}
    tree |= {"train": {"steps": STEPS}, "loss": {"name": "dice_ce"}, "model": {"args": {"dropout": {"rate": 0.2}}}}
    (where / "config.yaml").write_text(yaml.safe_dump(apply_overrides(tree, {**settings, **config})))
    random = np.random.default_rng(run["seed"])
    with (where / "metrics.jsonl").open("w") as file:
        for step in range(10, STEPS + 1, 10):
            line = {"step": step, "split": "train", "loss": 1 / step + 0.01 * random.random(), "seconds": 6.0 * step}
            file.write(json.dumps({**line, "peak_memory_gb": 1.5}) + "\n")
            score = 0.9 - 3 / (step + 5) + 0.02 * random.random()
            file.write(json.dumps({"step": step, "split": "val", "dice.mean": score, "auc": score}) + "\n")
    return where


def write_metrics(folder: Path, **changes: Any) -> None:
    checkpoint = {"name": "last", "step": STEPS, "weights": "ema"} | changes.pop("checkpoint", {})
    tree = {"checkpoint": checkpoint, "settings": {"overlap": 0.5, "data_root": "."}, "failed": [], **changes}
    (folder / "metrics.json").write_text(json.dumps(tree))


def write_segmented(folder: Path, dice: np.ndarray, fold: int = 0, **changes: Any) -> None:
    """cases.csv and metrics.json of Dice (cases, 2)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("iou", "hd95_mm", "nsd", "volume_error_ml", "volume_ml", "reference_volume_ml")
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", "dice", *columns, "empty_in"])
        for case, values in enumerate(dice):
            for name, value in zip(("anterior", "posterior"), values, strict=True):
                cell = "" if np.isnan(value) else f"{value:.6g}"
                writer.writerow([f"fold{fold}case{case}", name, cell, *[1.0] * len(columns), ""])
    write_metrics(folder, **changes)


def write_classified(folder: Path, probabilities: np.ndarray, labels: np.ndarray, **changes: Any) -> None:
    """Write the same for probabilities (cases, 2) and labels (cases,)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("normal", "hyperplasia")
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "group", "label", "predicted", "correct", "views", *(f"p({n})" for n in names)])
        for case, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
            predicted = int(row.argmax())
            head = [f"case{case}", "", names[label], names[predicted], int(predicted == label), 1]
            writer.writerow([*head, *(f"{p:.6g}" for p in row)])
    write_metrics(folder, **changes)
