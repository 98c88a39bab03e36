"""Records a sweep's plan in its folder, and reads how far each run is."""

import json
from typing import Any

from configs.schema.roles import is_within, keys_where, may_change_in_a_sweep
from engine.config import check_config
from engine.runs.check_resume import flatten
from engine.runs.checkpoints import CheckpointError, read_state
from engine.runs.run_folder import RunFolder
from engine.training.budget import Budget, out_of_patience, recalibration_is_due
from engine.training.progress import Position
from studies.case_rows import read_metrics
from studies.sweep.plan import PlannedRun, SweepPlan, describe


def record(plan: SweepPlan) -> None:
    """Write sweep.json and config.yaml; raise ValueError as `check_unchanged` does."""
    check_unchanged(plan)
    folder = RunFolder(plan.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("sweep", describe(plan))
    folder.write_config(plan.config)


def check_unchanged(plan: SweepPlan) -> None:
    """Raise ValueError where the folder holds a run, or a sweep that is neither this one nor a part of it."""
    folder = RunFolder(plan.folder)
    if not folder.exists():
        return
    tree = folder.read_config_tree()
    if tree.get("sweep") is None:
        raise ValueError(f"{folder.path}: this is a run, not a sweep; choose another name=...")
    old = flatten(check_config(tree, str(folder.config_path)).model_dump(mode="json", exclude={"sweep"}))
    new = flatten(plan.config.model_dump(mode="json", exclude={"sweep"}))
    free = keys_where(type(plan.config), may_change_in_a_sweep)
    lines = [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not is_within(key, free)
    ]
    lines += _lost(folder.read_json("sweep"), json.loads(json.dumps(describe(plan))))
    if lines:
        raise ValueError(
            f"{folder.path}: the sweep's config changed since it began; cells, seeds and folds may be added, but "
            "these decide the result:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nset them back, or start a new sweep under another name"
        )


def _lost(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each thing in the earlier plan that the present one lacks."""
    lines = []
    if before["train_cases"] != now["train_cases"]:
        lines.append(f"sweep.train_cases: {before['train_cases']} -> {now['train_cases']}")
    settings = {cell["name"]: cell["settings"] for cell in now["cells"]}
    for cell in before["cells"]:
        if cell["name"] not in settings:
            lines.append(f"cell {cell['name']}: gone")
        elif settings[cell["name"]] != cell["settings"]:
            lines.append(f"cell {cell['name']}: {cell['settings']} -> {settings[cell['name']]}")
    planned = {run["folder"] for run in now["runs"]}
    gone = [run for run in before["runs"] if run["folder"] not in planned and run["cell"] in settings]
    return lines + [f"run {run['folder']}: gone" for run in gone]


def is_finished(plan: SweepPlan, run: PlannedRun) -> bool:
    """Return whether the run is trained and evaluated."""
    folder = RunFolder(plan.folder / run.folder)
    return is_trained(run, folder) and all(is_evaluated(folder, split) for split in plan.splits)


def is_trained(run: PlannedRun, folder: RunFolder) -> bool:
    """Return whether the run's training is complete: at the end of its budget, or stopped early by its config."""
    last = folder.checkpoints / "last"
    if not folder.exists() or not last.exists():
        return False
    try:
        position = Position.from_json(read_state(last)["position"])
    except CheckpointError:
        return False  # training then continues from the checkpoint before
    batches = len(folder.read_json("splits")["train"]) // run.config.train.batch_size
    length = Budget.of(run.config, batches)
    if recalibration_is_due(run.config, length, position):
        return False
    return position.step >= length.total_steps or out_of_patience(run.config, position)


def is_evaluated(folder: RunFolder, split: str) -> bool:
    """Return whether the split was evaluated with the last checkpoint and no case failed."""
    if not (folder.evaluation(split) / "report.html").exists():  # it is written last
        return False
    metrics = read_metrics(folder.evaluation(split))
    return not metrics["failed"] and metrics["checkpoint"]["step"] == int((folder.checkpoints / "last").resolve().name)


def seconds_taken(folder: RunFolder, splits: tuple[str, ...]) -> float:
    """Return the seconds of a finished run: training, validation and evaluations, without starting its processes."""
    last = folder.read_metrics()[-1]
    evaluations = [read_metrics(folder.evaluation(split)) for split in splits]
    evaluating = sum(metrics["seconds_per_case"] * metrics["num_cases"] for metrics in evaluations)
    return float(last["seconds"] + last["validation_seconds"] + evaluating)
