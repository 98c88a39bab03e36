"""What the cases of an evaluation had to do with its weights: whether these were trained on them, or chosen by them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.runs.run_folder import RunFolder

HEADLINES = ("dice", "auc", "accuracy")
"""Metrics that are said of each split in a sentence; an evaluation has the first or the others."""


def own_splits(run: RunFolder, root: Path, fingerprint: str) -> dict[str, list[str]]:
    """Return the run's {split: case ids} where data are those it was trained on, at their place or moved; else {}.

    fingerprint: of the data, opened with the run's config. A pack knows no cases.
    """
    is_moved = run.has_json("environment") and run.read_json("environment").get("data_fingerprint") == fingerprint
    is_here = Path(run.read_config_tree()["data"]["root"]).resolve() == root.resolve()
    splits: dict[str, list[str]] = run.read_json("splits") if is_here or is_moved else {}
    return splits


def divide(case_ids: Iterable[str], splits: Mapping[str, Sequence[str]], seen: Iterable[str]) -> dict[str, list[str]]:
    """Return the cases by their part in training: "train" those `seen` by any member, then the run's other splits.

    Cases of no split are "other"; splits without a case are left out.
    """
    split_of = {case: name for name, cases in splits.items() for case in cases} | dict.fromkeys(seen, "train")
    found: dict[str, list[str]] = {name: [] for name in ("train", "val", "test", "other")}
    for case in case_ids:
        found[split_of.get(case, "other")].append(case)
    return {name: cases for name, cases in found.items() if cases}


def find_choice(run: RunFolder, checkpoint: Path, metric: str) -> dict[str, Any] | None:
    """Return how validation scored `best` and `last` in training, where `checkpoint` is the best and not the last.

    {"metric", "best": {"step", "value"}, "last": ...}; else None.
    """
    paths = {name: run.checkpoints / name for name in ("best", "last")}
    steps = {name: int(path.resolve().name) for name, path in paths.items() if path.exists()}
    if len(steps) < 2 or steps["best"] == steps["last"] or checkpoint.resolve() != paths["best"].resolve():
        return None
    lines = [line for line in run.read_metrics("val") if line.get(metric) is not None]
    found: dict[str, Any] = {"metric": metric}
    for name, step in steps.items():
        validated = [line for line in lines if line["step"] <= step]
        found[name] = {"step": step, "value": validated[-1][metric] if validated else None}
    return found


def warn_of_cases(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences for console and reports on cases that were trained on, and on those that chose the checkpoint."""
    notes = []
    if count := metrics.get("training_cases"):
        notes.append(f"{count} of these cases were trained on: scores that include them are optimistic.")
    if splits := metrics.get("splits"):
        notes.append("Apart: " + "; ".join(f"{name}, {_headline(part)}" for name, part in splits.items()) + ".")
    if choice := metrics.get("optimistic"):
        scores = [
            f"{name} {'–' if value is None else f'{value:.4f}'} at step {choice[name]['step']}"
            for name in ("best", "last")
            for value in [choice[name]["value"]]
        ]
        notes.append(
            "Optimistic: the best checkpoint was chosen by validation cases, which are scored here. Training's own "
            f"validation had a {choice['metric']} of {', '.join(scores)}, on the network's grid and without "
            "mirroring: compare these two with each other. --checkpoint last was chosen by no case."
        )
    return notes


def _headline(part: Mapping[str, Any]) -> str:
    values = {name: part[name] for name in HEADLINES if name in part}
    means = {name: value["mean"] if isinstance(value, Mapping) else value for name, value in values.items()}
    return f"{part['num_cases']} cases: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
