import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs.schema.load import apply_overrides
from studies.comparison.read_runs import read_study
from tests.studies.made_up import RATES, STEPS, write_metrics, write_segmented, write_sweep


def constant(cell: str, seed: int, fold: int) -> np.ndarray:
    """Dice of three cases: 0.5 to 0.7, and 0.01 more a seed."""
    return np.full((3, 2), 0.5 + 0.1 * list(RATES).index(cell) + 0.01 * seed + 0.02 * fold)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", constant)


def edit_config(run: Path, path: str, value: Any) -> None:
    tree = apply_overrides(yaml.safe_load((run / "config.yaml").read_text()), {path: value})
    (run / "config.yaml").write_text(yaml.safe_dump(tree))


def test_reads_scores_gap_time_and_memory(sweep: Path) -> None:
    study = read_study(sweep)
    assert study.baseline.name == "none"
    assert study.scores(study.cells[1]) == pytest.approx([0.6, 0.61, 0.62])
    (run, *_) = study.runs_of(study.cells[1])
    assert run.train_score == pytest.approx(0.65)
    assert run.minutes == pytest.approx(10.0)
    assert run.memory_gb == 1.5
    assert [step for step, _ in run.validation] == list(range(10, STEPS + 1, 10))
    assert not study.less_is_better
    write_metrics(sweep / "none" / "seed0" / "eval" / "train", checkpoint={"step": 50})
    (run, other, _) = read_study(sweep).runs_of(read_study(sweep).cells[0])
    assert np.isnan(run.train_score)
    assert np.isfinite(other.train_score)


def test_a_seeds_score_is_the_mean_over_its_folds(tmp_path: Path) -> None:
    study = read_study(write_sweep(tmp_path / "sweep", constant, folds=(0, 1)))
    assert study.scores(study.cells[0]) == pytest.approx([0.51, 0.52, 0.53])
    shutil.rmtree(study.folder / "none" / "seed1-fold0")
    study = read_study(study.folder)
    assert study.scores(study.cells[0]) == pytest.approx([0.51, np.nan, 0.53], nan_ok=True)
    assert not study.is_complete(study.cells[0])


def reasons(sweep: Path) -> dict[str, str]:
    return {run.folder: run.missing for run in read_study(sweep).runs if run.missing}


def test_unfinished_runs_have_a_reason(sweep: Path) -> None:
    shutil.rmtree(sweep / "none" / "seed0")
    (sweep / "none" / "seed1" / "eval" / "val" / "metrics.json").unlink()
    lines = (sweep / "none" / "seed2" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (sweep / "none" / "seed2" / "metrics.jsonl").write_text("".join(lines[:8]))
    (sweep / "none" / "seed2" / "eval" / "val" / "metrics.json").unlink()
    write_metrics(sweep / "rate=0.1" / "seed0" / "eval" / "val", checkpoint={"step": 60})
    write_metrics(sweep / "rate=0.1" / "seed1" / "eval" / "val", failed=[{"case": "a"}])
    write_segmented(sweep / "rate=0.1" / "seed2" / "eval" / "val", np.full((3, 2), np.nan))
    assert reasons(sweep) == {
        "none/seed0": "not begun",
        "none/seed1": "trained, not evaluated",
        "none/seed2": "at step 40 of 100",
        "rate=0.1/seed0": "evaluated at step 60 of 100",
        "rate=0.1/seed1": "1 cases could not be evaluated",
        "rate=0.1/seed2": "dice.mean is undefined",
    }


def test_refuses_a_folder_without_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"--compare .*run: this is a run, not a sweep; evaluate it with --run .*run,"):
        read_study(tmp_path / "run")
    with pytest.raises(ValueError, match=r"--compare .*: not a sweep: expected a sweep.json, written by train.py"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("run", "path", "value", "message"),
    [
        ("none/seed1", "optim.learning_rate", 0.1, r"none/seed1: optim.learning_rate=0.1, but None in none/seed0"),
        ("none/seed2", "train.steps", 200, "evaluated at step|train.steps=200, but 100 in none/seed0"),
        ("none/seed1", "model.args.dropout.kind", "element", "dropout.kind=element, but none in none/seed0"),
        ("none/seed1", "seed", 7, "none/seed1: seed=7, but the sweep planned 1; train it again under the sweep"),
        ("rate=0.1/seed0", "data.fold", 3, "rate=0.1/seed0: data.fold=3, but the sweep planned 0"),
    ],
)
def test_refuses_runs_of_other_settings_by_name(sweep: Path, run: str, path: str, value: Any, message: str) -> None:
    edit_config(sweep / run, path, value)
    with pytest.raises(ValueError, match=message):
        read_study(sweep)


def test_refuses_a_cell_that_differs_in_more_than_it_sets(sweep: Path) -> None:
    for seed in range(3):
        edit_config(sweep / "rate=0.3" / f"seed{seed}", "optim.learning_rate", 0.1)
    with pytest.raises(ValueError, match=r"rate=0.3/seed0: optim.learning_rate=0.1, but None in none/seed0"):
        read_study(sweep)


def test_takes_runs_that_differ_in_what_changes_no_result(sweep: Path) -> None:
    numbers = {"threads": 4, "data.workers": 8, "memory_limit_gb": 4, "train.log_every_steps": 1}
    texts = {"data.root": "elsewhere", "run.dir": "/x", "ops": "mlx", "train.compile": "never"}
    for path, value in (numbers | texts).items():
        edit_config(sweep / "none" / "seed1", path, value)
    assert not reasons(sweep)


def test_another_network_brings_its_arguments(tmp_path: Path) -> None:
    cells = {"small": {"model.name": "cnn3d"}, "large": {"model.name": "resnet18"}}
    sweep = write_sweep(tmp_path / "sweep", lambda *_: np.full((3, 2), 0.5), cells)
    for seed in range(3):
        edit_config(sweep / "large" / f"seed{seed}", "model.args.width", 64)
    assert not reasons(sweep)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"overlap": 0.25}}, r"rate=0.1/seed1: evaluate.overlap=0.25, but 0.5 in none/seed0"),
        ({"checkpoint": {"name": "best"}}, "rate=0.1/seed1: scored at its best checkpoint, which was chosen by these"),
        ({"checkpoint": {"weights": "raw"}}, "rate=0.1/seed1: weights=raw, but ema in none/seed0"),
        ({"checkpoint": {"step": 120}}, "rate=0.1/seed1: evaluated at step 120, but none/seed0 at step 100"),
    ],
)
def test_refuses_runs_evaluated_otherwise_by_name(sweep: Path, changes: dict[str, Any], message: str) -> None:
    write_metrics(sweep / "rate=0.1" / "seed1" / "eval" / "val", **changes)
    with pytest.raises(ValueError, match=message):
        read_study(sweep)


def test_refuses_other_cases_by_name(sweep: Path) -> None:
    write_segmented(sweep / "rate=0.1" / "seed1" / "eval" / "val", np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=r"rate=0.1/seed1: other cases than in none/seed0, fold0case3 among 1"):
        read_study(sweep)


def test_early_stopped_runs_end_at_steps_of_their_own(sweep: Path) -> None:
    for run in json.loads((sweep / "sweep.json").read_text())["runs"]:
        edit_config(sweep / run["folder"], "train.early_stop_validations", 3)
    write_metrics(sweep / "none" / "seed1" / "eval" / "val", checkpoint={"step": 70})
    study = read_study(sweep)
    assert not reasons(sweep)
    assert study.early_stops() == [70, 100]
