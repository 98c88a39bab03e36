"""An evaluation as a whole, for evaluate.py and for notebooks: what is evaluated is opened, then scored.

from engine.evaluate import evaluate
metrics = evaluate("runs/mine", split="test").metrics
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.dataset import open_data
from engine.check_compatibility import check_array_sizes
from engine.distributed.group import ALONE, Group
from engine.evaluation.cases import Failure, evenly_spaced
from engine.evaluation.ensemble import find_seen
from engine.evaluation.seen import divide, find_choice, own_splits
from engine.evaluation.temperature import choose_temperature
from engine.predict import join_runs, load_networks, open_folder
from engine.runs.trained import Overrides, Runs, Trained, open_trained
from engine.scoring import SCORING, Job, score
from engine.windows import Watching, choose_windows

_log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation."""

    metrics: dict[str, Any]  # as metrics.json holds them
    failures: list[Failure]
    output: Path


def evaluate(
    runs: Runs,
    split: str = "val",
    *,
    images: Path | str | None = None,
    checkpoint: str | None = None,
    baseline: Path | str | None = None,
    mc_dropout: int | None = None,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
    output: Path | str | None = None,
    overrides: Overrides = (),
    group: Group = ALONE,
) -> Evaluation:
    """Predict and score the cases of a split, and write metrics.json, cases.csv, a report and predictions.

    runs         a run's folder or a pack, or several, whose mean is predicted
    split        "train", "val", "test" or "all"
    images       a folder, or a file, without labels, which is predicted in place of a split
    checkpoint   `last` (None), `best`, a step, or a path to one
    baseline     a classification run, evaluated on the same split, whose scores are compared with these
    mc_dropout   predict the mean of so many draws of the network by its dropout layers
    window_seconds  of images that are clips, predict windows of so many seconds, which may be part of long videos
    hop_seconds  from the beginning of one window to that of the next; None is the window's length
    output       a folder; None is eval/SPLIT in the run's folder, with _mc_dropout or _ensemble
    overrides    of the keys that docs/configs.md lists for it, {"evaluate.overlap": 0.25}

    Raises ValueError or OSError for what doesn't fit together; a bad case is a failure, and the others go on.
    """
    opened = join_runs([without_train_labels(run) for run in open_trained(runs, checkpoint, overrides)])
    first = opened[0]
    run, config = first.run, first.config
    alone = bool(images) and len(opened) == 1 and mc_dropout is None
    windows = choose_windows(window_seconds, hop_seconds, config.data.clip if alone else None)
    data, cases, faults = open_cases(first, split, images)
    check_array_sizes(config, data, training=False)
    scoring: Any = SCORING[config.task] if windows is None else partial(Watching, windows=windows)
    if baseline and (images or not scoring.takes_baseline):
        raise ValueError("--baseline compares classifications of labelled cases; leave it out here")
    all_data, seen = [data, *(open_again(other, images) for other in opened[1:])], set[str]()
    if not images:
        ids = [case.id for case in cases]
        for other, its_data in zip(opened, all_data, strict=True):
            seen |= set(find_seen(ids, split, other.run, config.data.root, its_data.fingerprint))
    networks = load_networks(opened, mc_dropout, group)
    facts, prediction = networks.checkpoint, networks.prediction
    temperature = choose_temperature(run, config.evaluate.temperature, prediction["kind"], facts)
    name = f"images_{Path(images).resolve().name}" if images else split
    name += "" if windows is None else "_windows"
    name += "" if prediction["kind"] == "plain" else f"_{prediction['kind']}"
    folder = Path(output) if output else run.evaluation(name)
    folder.mkdir(parents=True, exist_ok=True)
    place = images or config.data.root
    _log.info("%d cases of %s, %s weights of %s", len(cases), place, facts["weights"], first.checkpoint)
    metrics: dict[str, Any] = {
        "split": "images" if images else split,
        "checkpoint": {"name": first.checkpoint_name, **facts},
        "prediction": prediction,
        "precision": networks.precision,
        "settings": {"data_root": str(place), **config.evaluate.model_dump(mode="json")},
    }
    parts: dict[str, list[str]] = {}
    splits = {} if images else own_splits(run, config.data.root, data.fingerprint)
    if splits or seen:  # or another member's training cases
        parts = divide([case.id for case in cases], splits, seen)
        metrics["training_cases"] = len(seen)
    if "val" in parts and (choice := find_choice(run, first.checkpoint, config.checkpoint.metric)):
        metrics["optimistic"] = choice
    members, model = networks.members(all_data), networks.models[0]
    places = temperature, folder, metrics, group, parts, splits.get("train", ())
    job = Job(run, config, data, cases, faults, model, members, *places)
    return Evaluation(metrics, score(job, scoring(job, baseline)), folder)


def open_cases(trained: Trained, split: str, images: Path | str | None) -> tuple[Any, list[Any], list[Failure]]:
    """Return the data, the cases to evaluate, and those of them that their headers rule out.

    Cases that training skipped stay skipped, and are no failures.
    """
    run, config = trained.run, trained.config
    if images:
        data = open_folder(trained, images)
        return data, data.cases("all"), [Failure(*fault) for fault in data.skipped]
    statistics = trained.statistics
    splits = {} if split == "all" else {split: run.read_json("splits").get(split)}
    if splits and not splits[split]:
        raise ValueError(f"{run.path}: the run has no {split} cases; choose another --split")
    data = open_data(config, statistics=statistics, splits=splits, scoring=True)
    skipped = {entry["case"] for entry in run.read_json("skipped")} if _at_its_root(trained) else set()
    cases = evenly_spaced([case for case in data.cases(split) if case.id not in skipped], config.evaluate.cases)
    wanted = splits.get(split) or [case_id for case_id, _, _ in data.skipped]
    faults = [Failure(*fault) for fault in data.skipped if fault[0] in wanted and fault[0] not in skipped]
    return data, cases, faults


def without_train_labels(trained: Trained) -> Trained:
    """Return the run, of data elsewhere without data.train_labels: only training reads them."""
    if trained.config.data.train_labels is None or _at_its_root(trained):
        return trained
    data = trained.config.data.model_copy(update={"train_labels": None})
    return replace(trained, config=trained.config.model_copy(update={"data": data}))


def _at_its_root(trained: Trained) -> bool:
    return Path(trained.run.read_config_tree()["data"]["root"]).resolve() == trained.config.data.root.resolve()


def open_again(trained: Trained, images: Path | str | None) -> Any:
    """Return the same data, as another member of an ensemble prepares them."""
    if images:
        return open_folder(trained, images)
    return open_data(trained.config, statistics=trained.statistics, splits={})
