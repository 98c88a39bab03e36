"""Runs of several processes as users start them: resumed by other numbers of processes, and evaluated by several."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten

import evaluate
import train
from data.synthetic.phantoms import write_phantoms
from engine.runs.run_folder import RunFolder
from tests import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels without dropout; nine training cases make two batches of four an epoch, and three of validation."""
    folder = tmp_path_factory.mktemp("several")
    write_phantoms(folder / "data", 12, seed=0)
    file = folder / "tiny.yaml"
    file.write_text(f"""
name: tiny
ops: mlx
data:
  root: {folder / "data"}
  spacing_mm: [5, 5, 5]
  patch_size_voxels: [8, 8, 8]
  augment: {{flip: {{probability: 0.5}}}}
  cache: {{folder: {folder / "cache"}}}
model: {{args: {{widths: [2, 4], convolutions: 1, dropout: {{kind: none}}}}}}
loss: {{batch_dice: true}}
optim: {{learning_rate: 1e-2, schedule: constant, ema_decay: 0.5}}
train: {{steps: 9, batch_size: 4, log_every_steps: 1, validate_every_steps: 9}}
checkpoint: {{every_steps: 3}}
""")
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: Path) -> list[dict[str, Any]]:
    """metrics.jsonl of one process from the beginning to the end."""
    folder = tmp_path_factory.mktemp("whole")
    assert train.main(["--config", str(config), f"run.dir={folder}"]) == 0
    return RunFolder.open(folder / "tiny").read_metrics()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """The first five steps of the same run, by two processes: it ends within the third epoch."""
    folder = tmp_path_factory.mktemp("begun")
    ended = processes.run(folder, 2, _command(config, folder, "train.steps=5"))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert json.loads((folder / "tiny" / "environment.json").read_text())["processes"] == 2
    return folder


def _command(config: Path, folder: Path, *more: str) -> list[str]:
    return ["train.py", "--config", str(config), f"run.dir={folder}", *more]


@pytest.mark.parametrize("count", [1, 4])
def test_other_numbers_of_processes_go_on_at_the_same_place(tmp_path, config, whole, begun, count: int) -> None:
    shutil.copytree(begun / "tiny", tmp_path / "tiny", symlinks=True)
    ended = processes.run(tmp_path, count, _command(config, tmp_path, "--resume"))
    assert [code for code, _, _ in ended] == [0] * count, ended
    run = RunFolder.open(tmp_path / "tiny")
    lines = [line for line in run.read_metrics() if not (line["split"] == "val" and line["step"] == 5)]
    assert [(line["split"], line["step"]) for line in lines] == [(line["split"], line["step"]) for line in whole]
    for key in ("loss", "loss_dice", "loss_cross_entropy", "grad_norm", "dice.mean"):
        values, expected = ([line[key] for line in each if key in line] for each in (lines, whole))
        np.testing.assert_allclose(values, expected, rtol=1e-4 if key == "dice.mean" else 1e-5, err_msg=key)
    assert sum(out.count("finished: 9 steps") for _, out, _ in ended) == 1


def test_cases_are_evaluated_by_two_as_by_one(tmp_path, begun) -> None:
    command = ["--run", str(begun / "tiny"), "--split", "train", "--checkpoint", "last", "--output"]
    assert evaluate.main([*command, str(tmp_path / "one")]) == 0
    ended = processes.run(tmp_path, 2, ["evaluate.py", *command, str(tmp_path / "two")])
    assert [code for code, _, _ in ended] == [0, 0], ended
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["num_cases"] == 9
    assert one.pop("seconds_per_case") != two.pop("seconds_per_case")
    alone, shared = (dict(tree_flatten(metrics.pop("calibration"))) for metrics in (one, two))
    assert alone.keys() == shared.keys()
    for key, value in alone.items():  # a fitted temperature knows its last digits no better
        assert shared[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    assert one == two
    assert (tmp_path / "one" / "cases.csv").read_text() == (tmp_path / "two" / "cases.csv").read_text()
    assert len(list((tmp_path / "two" / "predictions").iterdir())) == 9


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path, config) -> None:
    ended = processes.run(tmp_path, 3, _command(config, tmp_path))
    assert [code for code, _, _ in ended] == [2, 2, 2], ended
    assert "train.batch_size=4 must be divisible by the number of processes, 3" in ended[0][2]
    assert ended[1][1:] == ended[2][1:] == ("", "")
