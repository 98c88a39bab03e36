"""Lists a sweep's cells and estimates how long it takes, before it runs."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import mean
from typing import Any

from configs import Config
from engine.reports.tables import aligned
from engine.runs.precision import set_up_device
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest
from engine.train import assemble, build_validation
from engine.training.batches import Feed
from engine.training.budget import Budget
from engine.training.dry_run import format_seconds, rehearse
from models.layers.dropout import DropoutRow
from studies.sweep.folder import check_unchanged, is_finished, seconds_taken
from studies.sweep.plan import PlannedRun, SweepPlan, make_plan, no_validation

_log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True)
class Pace:
    """The measurements of a run's rehearsal."""

    budget: Budget
    step_seconds: float
    case_seconds: float  # of validation
    num_cases: Mapping[str, int]  # by split

    def seconds_of(self, config: Config, train_cases: int) -> float:
        """Return the seconds of a whole run: steps, validations and evaluations, without reading, writing and start."""
        validations = -(-self.budget.total_steps // self.budget.validate_every)
        val = self.num_cases["val"]
        cases = validations * min(config.evaluate.validation_cases or val, val)
        cases += min(config.evaluate.cases or val, val) + min(train_cases, self.num_cases["train"])
        return self.budget.total_steps * self.step_seconds + cases * self.case_seconds


def rehearse_run(config: Config) -> Pace:
    """Measure two steps and the validation of one case, to estimate the time of a run.

    Raises ValueError where there is no case to validate with.
    """
    set_up_device(config)
    data, step, _ = assemble(config)
    budget = Budget.of(config, data.batches_per_epoch)
    with closing(Feed(data, budget.steps_per_epoch, config.train.accumulate)) as feed:
        rehearsal = rehearse(step, feed.next(0)[0])
    one_case = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"validation_cases": 1})})
    validate = build_validation(one_case, data, StopRequest(config.run_folder / "STOP"))
    if validate is None:
        raise no_validation(config.name, config)
    started = time.perf_counter()
    validate(step.model)
    num_cases = {split: len(ids) for split, ids in data.splits.items()}
    return Pace(budget, rehearsal.seconds, time.perf_counter() - started, num_cases)


def list_sweep(config: Config, only: str | None = None, rehearsed: Callable[[Config], Pace] = rehearse_run) -> str:
    """Return a table of the cells and the time left; write nothing into the sweep's folder.

    Times are those of finished runs. Where a network has none, `rehearsed` measures it, once for all cells that differ
    only in rates and places of dropout. Raises ValueError as `run_sweep` does.
    """
    plan = make_plan(config)
    chosen = plan.select(only)
    check_unchanged(plan)
    finished = {run.folder for run in chosen if is_finished(plan, run)}
    seconds = _seconds_by_network(plan, chosen, finished, rehearsed)
    rows = [("cell", "dropout layers", "runs", "finished", "a run takes")]
    for cell in plan.cells:
        runs = [run for run in chosen if run.cell == cell.name]
        if cell.same_as is not None:
            rows.append((cell.name, _layers(cell.dropout), f"as {cell.same_as}", "", ""))
        elif runs:
            took = format_seconds(mean(seconds[_network(run.config)] for run in runs))
            done = sum(run.folder in finished for run in runs)
            rows.append((cell.name, _layers(cell.dropout), str(len(runs)), str(done), took))
    left = sum(seconds[_network(run.config)] for run in chosen if run.folder not in finished)
    return "\n".join(
        [*aligned(rows), f"{len(chosen)} runs, {len(finished)} of them finished; about {format_seconds(left)} left"]
    )


def _seconds_by_network(
    plan: SweepPlan, runs: Sequence[PlannedRun], finished: set[str], rehearsed: Callable[[Config], Pace]
) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    for run in runs:
        if run.folder in finished:
            taken.setdefault(_network(run.config), []).append(
                seconds_taken(RunFolder(plan.folder / run.folder), plan.splits)
            )
    seconds = {network: mean(values) for network, values in taken.items()}
    for run in runs:
        network = _network(run.config)
        if network not in seconds:
            _log.info("rehearsing %s", run.folder)
            seconds[network] = rehearsed(run.config).seconds_of(run.config, plan.sweep.train_cases)
    return seconds


def _network(config: Config) -> str:
    """Return a text that is equal for runs that differ only in seed, fold, and rate or places of dropout."""
    tree: dict[str, Any] = config.model_dump(mode="json", exclude={"name", "seed"})
    del tree["data"]["fold"]
    tree["model"]["args"]["dropout"] = tree["model"]["args"]["dropout"]["kind"]
    return json.dumps(tree, sort_keys=True)


def _layers(table: Sequence[DropoutRow]) -> str:
    """Return the dropout layers in short: "4 channel 0.2 in encoder, decoder"."""
    groups: dict[tuple[str, float], list[str]] = {}
    for row in table:
        groups.setdefault((row.kind, row.rate), []).append(row.place)
    parts = [
        f"{len(places)} {kind} {rate:g} in {', '.join(dict.fromkeys(places))}"
        for (kind, rate), places in groups.items()
    ]
    return "; ".join(parts) or "none"
