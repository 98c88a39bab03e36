"""Runs of several processes as users start them: resumed by other numbers of processes, and evaluated by several."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten

from engine.runs.run_folder import RunFolder
from tests import processes
from tests.runs import evaluated, read_metrics, trained, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels without dropout; nine training cases make two batches of four an epoch, and three of validation."""
    return write_config(
        tmp_path_factory.mktemp("several"),
        "data.augment.flip.probability=0.5",
        "model.args.dropout.kind=none",
        "loss.batch_dice=true",
        "optim={learning_rate: 0.01, schedule: constant, ema_decay: 0.5}",
        "train={steps: 9, batch_size: 4, validate_every_steps: 9}",
        "checkpoint.every_steps=3",
        cases=12,
    )


@pytest.fixture(scope="module")
def whole(config: Path) -> list[dict[str, Any]]:
    """metrics.jsonl of one process from the beginning to the end."""
    return trained(config).read_metrics()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """The first five steps of the same run, by two processes: it ends within the third epoch."""
    folder = tmp_path_factory.mktemp("begun")
    processes.train(folder, 2, config, "train.steps=5")
    assert json.loads((folder / "tiny" / "environment.json").read_text())["processes"] == 2
    return folder


@pytest.mark.parametrize("count", [1, 4])
def test_other_numbers_of_processes_go_on_at_the_same_place(tmp_path, config, whole, begun, count: int) -> None:
    shutil.copytree(begun / "tiny", tmp_path / "tiny", symlinks=True)
    ended = processes.train(tmp_path, count, config, "--resume")
    run = RunFolder.open(tmp_path / "tiny")
    lines = [line for line in run.read_metrics() if not (line["split"] == "val" and line["step"] == 5)]
    assert [(line["split"], line["step"]) for line in lines] == [(line["split"], line["step"]) for line in whole]
    for key in ("loss", "loss_dice", "loss_cross_entropy", "grad_norm", "dice.mean"):
        values, expected = ([line[key] for line in each if key in line] for each in (lines, whole))
        np.testing.assert_allclose(values, expected, rtol=1e-4 if key == "dice.mean" else 1e-5, err_msg=key)
    assert sum(out.count("finished: 9 steps") for _, out, _ in ended) == 1


def test_cases_are_evaluated_by_two_as_by_one(tmp_path, begun) -> None:
    command = [str(begun / "tiny"), "--split", "train", "--checkpoint", "last", "--output"]
    evaluated(*command, tmp_path / "one")
    ended = processes.run(tmp_path, 2, ["evaluate.py", "--run", *command, str(tmp_path / "two")])
    assert [code for code, _, _ in ended] == [0, 0], ended
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
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
    ended = processes.train(tmp_path, 3, config, codes=[2, 2, 2])
    assert "train.batch_size=4 must be divisible by the number of processes, 3" in ended[0][2]
    assert ended[1][1:] == ended[2][1:] == ("", "")
