"""What the runs of a sweep's folder came to, for `evaluate.py --compare`."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.roles import is_within, keys_where, may_differ_between_runs
from engine.config import config_class
from engine.runs.check_resume import flatten
from engine.runs.run_folder import RunFolder
from engine.training.losses import LOSSES
from studies.case_rows import read_table
from studies.scores import CaseTable, whole_score

Curve = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Run:
    """One run: finished, or why it isn't."""

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


@dataclass(frozen=True)
class Cell:
    """One setting. `same_as` names the cell whose runs are this one's too, because their networks are the same."""

    name: str
    settings: Mapping[str, Any]
    dropout: Sequence[Sequence[Any]]  # rows of path, kind, rate, place and position; older sweeps lack the last
    same_as: str | None
    dose: Mapping[str, Any] | None = None  # layers, and by path the share of channels "kept"; None in older sweeps

    @property
    def source(self) -> str:
        """The cell whose runs count."""
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
        """The cell's runs, by seed and fold."""
        runs = [run for run in self.runs if run.cell == cell.source]
        return sorted(runs, key=lambda run: (self.seeds.index(run.seed), self.folds.index(run.fold)))

    def by_seed(self, cell: Cell, value: Callable[[Run], float]) -> np.ndarray:
        """(seeds,): the mean over the folds, NaN where a run is not finished."""
        found = {(run.seed, run.fold): math.nan if run.missing else value(run) for run in self.runs_of(cell)}
        return np.array([[found.get((s, f), math.nan) for f in self.folds] for s in self.seeds]).mean(axis=1)

    def scores(self, cell: Cell) -> np.ndarray:
        return self.by_seed(cell, lambda run: run.score)

    def is_complete(self, cell: Cell) -> bool:
        return bool(np.isfinite(self.scores(cell)).all())

    def units_by_fold(self) -> dict[int, set[str]]:
        """The cases that were scored, or groups of them, of each fold."""
        return {run.fold: set(run.table.units) for run in self.runs if run.table is not None}

    def early_stops(self) -> list[int]:
        """The steps at which finished runs ended, where they are not all the same."""
        steps = sorted({run.step for run in self.runs if not run.missing})
        return steps if len(steps) > 1 else []


def read_study(folder: str | Path) -> Study:
    """Read sweep.json and all runs it plans.

    Raises ValueError where the folder holds no sweep, where a run differs from others in more than its cell sets,
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
    by_name = {cell.name: cell for cell in cells}
    runs, configs, settings = [], {}, {}
    for entry in plan["runs"]:
        run, config, evaluated = _read_run(folder, entry, plan)
        runs.append(run)
        if config is not None:
            configs[run.folder] = config
        if evaluated is not None:
            settings[run.folder] = evaluated
    study = Study(
        folder,
        plan["name"],
        plan["task"],
        plan["metric"],
        plan.get("mode", "max") == "min",
        by_name[plan["baseline"]],
        plan["seeds"],
        plan["folds"],
        cells,
        runs,
    )
    _check_configs(study, configs)
    _check_evaluations(study, configs, settings)
    return study


def _read_run(
    folder: Path, entry: Mapping[str, Any], plan: Mapping[str, Any]
) -> tuple[Run, dict[str, Any] | None, dict[str, Any] | None]:
    """The run, its config by dotted path, and how it was evaluated; None for what there is not."""
    run = RunFolder(folder / entry["folder"])
    head = (entry["cell"], entry["seed"], entry["fold"], entry["folder"])
    if not run.exists():
        return Run(*head, missing="not begun"), None, None
    config = flatten(run.read_config_tree())
    lines = run.read_metrics()
    train = [line for line in lines if line["split"] == "train"]
    step = max((line["step"] for line in train), default=0)
    total = config.get("train.steps")
    evaluated = _read_evaluation(run, "val")
    if evaluated is None:
        reason = "trained, not evaluated" if step == total else f"at step {step}" + (f" of {total}" if total else "")
        return Run(*head, missing=reason), config, None
    at = evaluated["checkpoint"]["step"]
    if total and at < total and not config.get("train.early_stop_validations"):
        return Run(*head, missing=f"evaluated at step {at} of {total}"), config, None
    if evaluated["failed"]:
        return Run(*head, missing=f"{len(evaluated['failed'])} cases could not be evaluated"), config, None
    loss = LOSSES.get(config["loss.name"])
    multi_label = loss is not None and "classes" in loss.targets
    metric = plan["metric"]
    table = read_table(run.evaluation("val") / "cases.csv", metric, multi_label)
    score = whole_score(table)
    if not math.isfinite(score):
        return Run(*head, missing=f"{metric} is undefined"), config, None
    on_train = _read_evaluation(run, "train")
    has_train = on_train is not None and on_train["checkpoint"]["step"] == at and not on_train["failed"]
    train_table = read_table(run.evaluation("train") / "cases.csv", metric, multi_label) if has_train else None
    done = Run(
        *head,
        step=at,
        table=table,
        score=score,
        train_score=math.nan if train_table is None else whole_score(train_table),
        minutes=train[-1]["seconds"] / 60 if train else math.nan,
        memory_gb=max((line["peak_memory_gb"] for line in train), default=math.nan),
        validation=_curve([line for line in lines if line["split"] == "val"], metric),
        loss=_curve(train, "loss"),
    )
    how = {"weights": evaluated["checkpoint"]["weights"], **flatten(evaluated["settings"], "evaluate.")}
    return done, config, {"checkpoint": evaluated["checkpoint"]["name"], **how}


def _read_evaluation(run: RunFolder, split: str) -> dict[str, Any] | None:
    path = run.evaluation(split) / "metrics.json"
    if not path.is_file():
        return None
    evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return evaluation


def _curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _check_configs(study: Study, configs: Mapping[str, dict[str, Any]]) -> None:
    """A cell's runs differ in seed and fold alone, cells besides in what they set."""
    mend = "train it again under the sweep"
    for run in study.runs:
        for key, planned in (("seed", run.seed), ("data.fold", run.fold)):
            if run.folder in configs and (found := configs[run.folder].get(key)) != planned:
                where = study.folder / run.folder
                raise ValueError(f"{where}: {key}={found}, but the sweep planned {planned}; {mend}")
    free = keys_where(config_class(), may_differ_between_runs)
    first: tuple[Cell, Run] | None = None
    for cell in sorted(study.cells, key=lambda cell: cell.name != study.baseline.source):
        own = [run for run in study.runs if run.cell == cell.name and run.folder in configs]
        for run in own[1:]:
            _refuse_difference(study, run, configs[run.folder], own[0], configs[own[0].folder], free, mend)
        if own and first is None:
            first = cell, own[0]
        elif own and first is not None:
            paths = {*cell.settings, *first[0].settings}
            # model.name=... brings the arguments of another network with it
            sections = [path.removesuffix(".name") for path in paths if path.endswith(".name")]
            allowed = [*free, *paths, *sections]
            pair = configs[own[0].folder], first[1], configs[first[1].folder]
            _refuse_difference(study, own[0], *pair, allowed, mend)


def _check_evaluations(
    study: Study, configs: Mapping[str, dict[str, Any]], settings: Mapping[str, dict[str, Any]]
) -> None:
    """All finished runs ended at one step, and were evaluated alike, on the same cases of their fold."""
    finished = [run for run in study.runs if not run.missing]
    first_of_fold: dict[int, Run] = {}
    varied = {path for cell in study.cells for path in cell.settings}
    steps_may_differ = any(path in varied for path in ("train.steps", "train.epochs", "train.batch_size"))
    for run in finished:
        where, first = study.folder / run.folder, finished[0]
        mend = "evaluate it again with --checkpoint last and the same settings"
        if settings[run.folder]["checkpoint"] == "best":
            raise ValueError(
                f"{where}: scored at its best checkpoint, which was chosen by these very cases; evaluate it with "
                "--checkpoint last"
            )
        allowed = ["checkpoint", "evaluate.data_root", *(path for path in varied if path.startswith("evaluate."))]
        _refuse_difference(study, run, settings[run.folder], first, settings[first.folder], allowed, mend)
        may_stop = configs[run.folder].get("train.early_stop_validations")
        if run.step != first.step and not steps_may_differ and not may_stop:
            raise ValueError(
                f"{where}: evaluated at step {run.step}, but {first.folder} at step {first.step}; train both to "
                "one step"
            )
        other = first_of_fold.setdefault(run.fold, run)
        assert run.table is not None
        assert other.table is not None
        if set(run.table.cases) != set(other.table.cases):
            odd = sorted(set(run.table.cases) ^ set(other.table.cases))
            raise ValueError(
                f"{where}: other cases than in {other.folder}, {odd[0]} among {len(odd)} that only one of them has; "
                "evaluate both on the same split"
            )


def _refuse_difference(
    study: Study,
    run: Run,
    mine: Mapping[str, Any],
    other: Run,
    theirs: Mapping[str, Any],
    allowed: Iterable[str],
    mend: str,
) -> None:
    for key in sorted(mine.keys() | theirs.keys()):
        if is_within(key, allowed):
            continue
        if mine.get(key) != theirs.get(key):
            raise ValueError(
                f"{study.folder / run.folder}: {key}={mine.get(key)}, but {theirs.get(key)} in {other.folder}: the "
                f"difference between them would not be what the sweep varies; {mend}"
            )
