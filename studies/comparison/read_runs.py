"""Reads the runs of a sweep's folder, for `evaluate.py --compare`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.roles import is_within, keys_where, may_differ_between_runs
from engine.config import config_class
from engine.runs.check_resume import flatten
from engine.runs.run_folder import RunFolder
from engine.training.losses import LOSSES
from studies.case_rows import read_metrics, read_table
from studies.scores import CaseTable, whole_score

Curve = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Run:
    """One run: its scores, or why it has none."""

    cell: str
    seed: int
    fold: int
    folder: str  # below the sweep's
    missing: str = ""  # empty where it is finished
    step: int = 0
    table: CaseTable | None = None
    score: float = math.nan
    train_score: float = math.nan  # of the training cases, where they were scored
    minutes: float = math.nan  # of training, without validation
    memory_gb: float = math.nan
    validation: Curve = field(default_factory=list)
    loss: Curve = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)  # by dotted path; empty where it is not begun
    evaluated: Mapping[str, Any] = field(default_factory=dict)  # the checkpoint and settings of its evaluation


@dataclass(frozen=True)
class Cell:
    """One setting of the sweep. `same_as` names the cell with the same network, whose runs count for this one too."""

    name: str
    settings: Mapping[str, Any]
    dropout: Sequence[Sequence[Any]]  # rows of path, kind, rate, place and position; older sweeps lack the last
    same_as: str | None
    dose: Mapping[str, Any] | None = None  # number of layers, share of channels "kept" by path; None in older sweeps

    @property
    def source(self) -> str:
        """The name of the cell whose runs count."""
        return self.same_as or self.name


@dataclass(frozen=True)
class Study:
    """A sweep's plan, and its runs."""

    folder: Path
    name: str
    task: str
    metric: str
    less_is_better: bool
    baseline: Cell
    seeds: list[int]
    folds: list[int]
    cells: list[Cell]
    runs: list[Run]

    def runs_of(self, cell: Cell) -> list[Run]:
        """Return the cell's runs, by seed and fold."""
        runs = [run for run in self.runs if run.cell == cell.source]
        return sorted(runs, key=lambda run: (self.seeds.index(run.seed), self.folds.index(run.fold)))

    def by_seed(self, cell: Cell, value: Callable[[Run], float]) -> np.ndarray:
        """Return (seeds,): the mean over the folds, NaN where a run is not finished."""
        found = {(run.seed, run.fold): math.nan if run.missing else value(run) for run in self.runs_of(cell)}
        return np.array([[found.get((s, f), math.nan) for f in self.folds] for s in self.seeds]).mean(axis=1)

    def scores(self, cell: Cell) -> np.ndarray:
        return self.by_seed(cell, lambda run: run.score)

    def is_complete(self, cell: Cell) -> bool:
        return bool(np.isfinite(self.scores(cell)).all())

    def units_by_fold(self) -> dict[int, set[str]]:
        """Return the scored cases, or groups of them, of each fold."""
        return {run.fold: set(run.table.units) for run in self.runs if run.table is not None}

    def early_stops(self) -> list[int]:
        """Return the steps at which finished runs ended, where they differ."""
        steps = sorted({run.step for run in self.runs if not run.missing})
        return steps if len(steps) > 1 else []


def read_study(folder: str | Path) -> Study:
    """Read sweep.json and all the runs in it.

    Raises ValueError where the folder holds no sweep, where a run differs from others in more than what its cell sets,
    in its steps or in how it was evaluated, and where two runs of a fold scored different cases.
    """
    folder = Path(folder)
    if not (folder / "sweep.json").is_file():
        if RunFolder(folder).exists():
            raise ValueError(
                f"--compare {folder}: this is a run, not a sweep; evaluate it with --run {folder}, or compare the "
                "folder that holds its sweep's sweep.json"
            )
        raise ValueError(
            f"--compare {folder}: not a sweep: expected a sweep.json, written by train.py (sweep: section)"
        )
    plan = RunFolder(folder).read_json("sweep")
    cells = [Cell(c["name"], c["settings"], c["dropout"], c["same_as"], c.get("dose")) for c in plan["cells"]]
    study = Study(
        folder,
        plan["name"],
        plan["task"],
        plan["metric"],
        plan.get("mode", "max") == "min",
        next(cell for cell in cells if cell.name == plan["baseline"]),
        plan["seeds"],
        plan["folds"],
        cells,
        [_read_run(folder, entry, plan) for entry in plan["runs"]],
    )
    _check_configs(study)
    _check_evaluations(study)
    return study


def _read_run(folder: Path, entry: Mapping[str, Any], plan: Mapping[str, Any]) -> Run:
    run = RunFolder(folder / entry["folder"])
    planned = Run(entry["cell"], entry["seed"], entry["fold"], entry["folder"])
    if not run.exists():
        return replace(planned, missing="not begun")
    config = flatten(run.read_config_tree())
    begun = replace(planned, config=config)
    lines = run.read_metrics()
    train = [line for line in lines if line["split"] == "train"]
    step = max((line["step"] for line in train), default=0)
    total = config.get("train.steps")
    evaluated = read_metrics(run.evaluation("val"))
    if not evaluated:
        reason = "trained, not evaluated" if step == total else f"at step {step}" + (f" of {total}" if total else "")
        return replace(begun, missing=reason)
    checkpoint, failed = evaluated["checkpoint"], evaluated["failed"]
    at = checkpoint["step"]
    if total and at < total and not config.get("train.early_stop_validations"):
        return replace(begun, missing=f"evaluated at step {at} of {total}")
    if failed:
        return replace(begun, missing=f"{len(failed)} cases could not be evaluated")
    loss, metric = LOSSES.get(config["loss.name"]), plan["metric"]
    multi_label = loss is not None and "classes" in loss.targets
    table = read_table(run.evaluation("val") / "cases.csv", metric, multi_label)
    score = whole_score(table)
    if not math.isfinite(score):
        return replace(begun, missing=f"{metric} is undefined")
    on_train, train_score = read_metrics(run.evaluation("train")), math.nan
    if on_train and on_train["checkpoint"]["step"] == at and not on_train["failed"]:
        train_score = whole_score(read_table(run.evaluation("train") / "cases.csv", metric, multi_label))
    how = {"checkpoint": checkpoint["name"], "weights": checkpoint["weights"]}
    return replace(
        begun,
        evaluated=how | flatten(evaluated["settings"], "evaluate."),
        step=at,
        table=table,
        score=score,
        train_score=train_score,
        minutes=train[-1]["seconds"] / 60 if train else math.nan,
        memory_gb=max((line["peak_memory_gb"] for line in train), default=math.nan),
        validation=_curve([line for line in lines if line["split"] == "val"], metric),
        loss=_curve(train, "loss"),
    )


def _curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _check_configs(study: Study) -> None:
    """Raise ValueError unless a cell's runs differ in seed and fold alone, and cells in what they set."""
    fix = "train it again under the sweep"
    begun = [run for run in study.runs if run.config]
    for run in begun:
        for key, planned in (("seed", run.seed), ("data.fold", run.fold)):
            if (found := run.config.get(key)) != planned:
                where = study.folder / run.folder
                raise ValueError(f"{where}: {key}={found}, but the sweep planned {planned}; {fix}")
    free = keys_where(config_class(), may_differ_between_runs)
    first: tuple[Cell, Run] | None = None
    for cell in sorted(study.cells, key=lambda cell: cell.name != study.baseline.source):
        own = [run for run in begun if run.cell == cell.name]
        for run in own[1:]:
            _require_equal(study, run, own[0], lambda run: run.config, free, fix)
        if own and first is None:
            first = cell, own[0]
        elif own and first is not None:
            paths = {*cell.settings, *first[0].settings}
            # model.name=... brings the arguments of another network with it
            sections = [path.removesuffix(".name") for path in paths if path.endswith(".name")]
            _require_equal(study, own[0], first[1], lambda run: run.config, [*free, *paths, *sections], fix)


def _check_evaluations(study: Study) -> None:
    """Raise ValueError unless finished runs were evaluated alike, at one step, on the same cases of their fold."""
    finished = [run for run in study.runs if not run.missing]
    first_of_fold: dict[int, Run] = {}
    varied = {path for cell in study.cells for path in cell.settings}
    steps_may_differ = any(path in varied for path in ("train.steps", "train.epochs", "train.batch_size"))
    allowed = ["checkpoint", "evaluate.data_root", *(path for path in varied if path.startswith("evaluate."))]
    fix = "evaluate it again with --checkpoint last and the same settings"
    for run in finished:
        where, first = study.folder / run.folder, finished[0]
        if run.evaluated["checkpoint"] == "best":
            raise ValueError(
                f"{where}: scored at its best checkpoint, which was chosen by these very cases; evaluate it with "
                "--checkpoint last"
            )
        _require_equal(study, run, first, lambda run: run.evaluated, allowed, fix)
        may_stop = run.config.get("train.early_stop_validations")
        if run.step != first.step and not steps_may_differ and not may_stop:
            raise ValueError(
                f"{where}: evaluated at step {run.step}, but {first.folder} at step {first.step}; train both to "
                "one step"
            )
        other = first_of_fold.setdefault(run.fold, run)
        assert run.table is not None
        assert other.table is not None
        if odd := sorted(set(run.table.cases) ^ set(other.table.cases)):
            raise ValueError(
                f"{where}: other cases than in {other.folder}, {odd[0]} among {len(odd)} that only one of them has; "
                "evaluate both on the same split"
            )


def _require_equal(
    study: Study, run: Run, other: Run, part: Callable[[Run], Mapping[str, Any]], allowed: Iterable[str], fix: str
) -> None:
    """Raise ValueError where this part of two runs differs in a key that is not allowed to."""
    mine, theirs = part(run), part(other)
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not is_within(key, allowed):
            raise ValueError(
                f"{study.folder / run.folder}: {key}={mine.get(key)}, but {theirs.get(key)} in {other.folder}: the "
                f"difference between them would not be what the sweep varies; {fix}"
            )
