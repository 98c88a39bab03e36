"""Plans the runs of a config with a `sweep:` section, and checks all of them before the first one begins."""

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config
from configs.schema.load import apply_overrides
from configs.schema.sweep import Settings, SweepConfig
from engine.config import check_config
from engine.train import require_network_fits
from models import build_model
from models.layers.dropout import DropoutRow, dropout_table, kept_shares


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep, and the dropout layers of the network that it builds.

    kept: the expected share of channels (of voxels, for element) that each path keeps, as `kept_shares` returns it
    """

    name: str
    settings: Settings
    dropout: list[DropoutRow]
    kept: dict[str, float]
    same_as: str | None  # an earlier cell that trains exactly the same


@dataclass(frozen=True)
class PlannedRun:
    """A cell under one seed, in one fold."""

    cell: str
    seed: int
    fold: int
    folder: str  # below the sweep's
    overrides: tuple[str, ...]  # which turn the sweep's config into this run's
    config: Config


@dataclass(frozen=True)
class SweepPlan:
    """A sweep's cells in the config's order, and its runs in the order of training."""

    config: Config
    sweep: SweepConfig
    cells: list[Cell]
    runs: list[PlannedRun]

    @property
    def folder(self) -> Path:
        return self.config.run_folder

    @property
    def baseline(self) -> str:
        return self.sweep.baseline or self.cells[0].name

    @property
    def folds(self) -> tuple[int, ...]:
        return self.sweep.folds or (self.config.data.fold,)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that every run is evaluated on."""
        return ("val", "train") if self.sweep.train_cases else ("val",)

    def select(self, pattern: str | None) -> list[PlannedRun]:
        """Return the runs whose folder or cell matches the shell pattern, in order; all for None.

        Raises ValueError where none matches.
        """
        if pattern is None:
            return self.runs
        chosen = [run for run in self.runs if fnmatchcase(run.folder, pattern) or fnmatchcase(run.cell, pattern)]
        if not chosen:
            folders = [run.folder for run in self.runs]
            raise ValueError(f"--only {pattern}: no run of {self.config.name} matches; there are {', '.join(folders)}")
        return chosen


def make_plan(config: Config) -> SweepPlan:
    """Return the plan of a config that has a `sweep:` section.

    Runs come in blocks of one fold and seed, and `sweep.order_seed` shuffles the cells of each block: other work on the
    machine then affects all cells equally, and a stopped sweep has whole blocks to compare. A cell that trains exactly
    what an earlier cell trains uses that cell's runs.

    Raises ConfigError, naming the cell and the dotted path, where a run's config doesn't fit the schema.
    """
    sweep = config.sweep
    assert sweep is not None
    settings = sweep.settings()
    folds = sweep.folds or (config.data.fold,)
    planned = {
        (name, seed, fold): _plan_run(config, sweep, name, settings[name], seed, fold)
        for name in settings
        for seed in sweep.seeds
        for fold in folds
    }
    cells: dict[str, Cell] = {}
    seen: dict[str, str] = {}
    for name in settings:
        resolved = planned[name, sweep.seeds[0], folds[0]].config
        try:
            require_network_fits(resolved)
        except ValueError as error:
            raise ValueError(f"sweep: cell {name}: {error}") from None
        model = build_model(resolved.model.name, resolved.model.args, in_channels=1, num_outputs=2)
        table = dropout_table(model)
        same_as = seen.setdefault(_what_is_trained(resolved, table), name)
        cells[name] = Cell(name, settings[name], table, kept_shares(model), None if same_as == name else same_as)
    order = [key for block in _blocks(list(settings), sweep.seeds, folds, sweep.order_seed) for key in block]
    return SweepPlan(
        config, sweep, list(cells.values()), [planned[key] for key in order if cells[key[0]].same_as is None]
    )


def _plan_run(config: Config, sweep: SweepConfig, name: str, settings: Settings, seed: int, fold: int) -> PlannedRun:
    folder = f"{name}/seed{seed}" + ("" if sweep.folds is None else f"-fold{fold}")
    keys = {"name": f"{config.name}/{folder}", "seed": seed, "data.fold": fold, **settings, "sweep": None}
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in keys.items())  # JSON is YAML
    tree = apply_overrides(config.model_dump(mode="json"), overrides)
    return PlannedRun(name, seed, fold, folder, overrides, check_config(tree, f"{config.name}: cell {name}"))


def _blocks(
    names: list[str], seeds: tuple[int, ...], folds: tuple[int, ...], order_seed: int
) -> Iterator[list[tuple[str, int, int]]]:
    for seed in seeds:
        for fold in folds:
            order = np.random.default_rng([order_seed, seed, fold]).permutation(len(names))
            yield [(names[i], seed, fold) for i in order]


def _what_is_trained(config: Config, table: list[DropoutRow]) -> str:
    """Return a text that is equal for configs under which training is the same, number for number.

    Dropout counts by what its layers do: a rate of 0 draws nothing, and both kinds draw the same masks for the pooled
    features before a head, which have one value per channel. After a norm is the same as after the activation where
    that is a (leaky) ReLU.
    """
    rest = config.model_dump(mode="json")
    del rest["name"]
    rest["model"]["args"].pop("dropout", None)
    layers = [
        (row.path, "" if row.place == "head" else row.kind, row.rate, row.position) for row in table if row.rate > 0
    ]
    return json.dumps([rest, layers], sort_keys=True)


def no_validation(folder: str, config: Config) -> ValueError:
    """Return the error of a run that has no case to be scored on."""
    split = config.data.split
    how = f"ratio={list(split.ratio)}" if split.kind == "ratio" else f"kind={split.kind}"
    return ValueError(
        f"{folder}: data.split.{how} leaves no labelled case for validation, and a sweep's cells are compared by their "
        "scores there; change data.split"
    )


def describe(plan: SweepPlan) -> dict[str, Any]:
    """Return the contents of sweep.json."""
    config, sweep = plan.config, plan.sweep
    cells = [
        {
            "name": cell.name,
            "settings": cell.settings,
            "dropout": [list(astuple(row)) for row in cell.dropout],
            "dose": {"layers": sum(row.rate > 0 for row in cell.dropout), "kept": cell.kept},
            "same_as": cell.same_as,
        }
        for cell in plan.cells
    ]
    return {
        "name": config.name,
        "task": config.task,
        "metric": config.checkpoint.metric,
        "mode": config.checkpoint.mode,
        "baseline": plan.baseline,
        "seeds": list(sweep.seeds),
        "folds": list(plan.folds),
        "train_cases": sweep.train_cases,
        "cells": cells,
        "runs": [{"cell": run.cell, "seed": run.seed, "fold": run.fold, "folder": run.folder} for run in plan.runs],
    }
