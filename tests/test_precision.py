"""train.precision from end to end: on a device with bfloat16, then on one without, and two that differ."""

from pathlib import Path

import pytest

import train
from engine.runs.run_folder import RunFolder
from ops import backend
from tests import processes
from tests.conftest import NO_BFLOAT16
from tests.runs import Capture, evaluated, read_metrics, refused, trained, write_config

TWO = """
import os, sys
import train
from ops import backend
backend.why_no_bfloat16 = lambda: "it cannot" if os.environ["MLX_RANK"] == "1" else None
sys.exit(train.main(sys.argv[1:]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(
        tmp_path_factory.mktemp("precision"),
        "checkpoint.every_steps=1",
        "evaluate.bootstrap_samples=20",
    )


def run_train(config: Path, folder: Path, *arguments: str) -> int:
    return train.main(["--config", str(config), f"run.dir={folder}", *arguments])


def precision(folder: Path, *arguments: object) -> str:
    evaluated(*arguments, "--output", folder)
    return read_metrics(folder)["precision"]


@pytest.fixture
def run(config: Path, tmp_path: Path, native_bfloat16: None) -> RunFolder:
    """A run of auto, in bfloat16, of which one step is done."""
    return trained(config, f"run.dir={tmp_path}", "train.steps=1")


def test_the_run_says_what_auto_became_and_keeps_it(config: Path, tmp_path: Path, run: RunFolder) -> None:
    assert run.read_config_tree()["train"]["precision"] == "bfloat16"
    assert run.read_json("environment")["precision"] == "bfloat16"
    assert run_train(config, tmp_path, "--resume") == 0
    assert run.read_config_tree()["train"]["precision"] == "bfloat16"
    assert precision(tmp_path / "out", run.path) == "bfloat16"
    assert precision(tmp_path / "out", run.path, "train.precision=float32") == "float32"


def test_without_bfloat16_a_run_goes_on_by_the_override_alone(
    config: Path, tmp_path: Path, run: RunFolder, no_bfloat16: None, capsys: Capture
) -> None:
    said = refused(train, capsys, "--config", config, f"run.dir={tmp_path}", "--resume")
    assert f"train.py: {run.path}: it trains in bfloat16, and {NO_BFLOAT16}; continue on a device" in said
    assert run_train(config, tmp_path, "--resume", "train.precision=float32") == 0
    assert run.read_config_tree()["train"]["precision"] == "float32"
    environment = run.read_json("environment")
    assert (environment["precision"], environment["resumed"][0]["precision"]) == ("bfloat16", "float32")
    assert [line["step"] for line in run.read_metrics("train")] == [1, 2]
    assert run_train(config, tmp_path, "--resume", "train.steps=3") == 0  # float32 is its own now


def test_without_bfloat16_everything_else_falls_back(
    config: Path, tmp_path: Path, run: RunFolder, no_bfloat16: None, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    pack, images = tmp_path / "pack.zip", config.parent / "data" / "imagesTr"
    evaluated(run.path, "--export", pack)
    line = f"train.precision=bfloat16: {NO_BFLOAT16}; predicting in float32"
    for arguments in ((run.path, run.path), (run.path, "--images", images), (pack, "--images", images)):
        caplog.clear()
        assert precision(tmp_path / "out", *arguments) == "float32"
        assert caplog.messages.count(line) == 1
    tuned = trained(config, f"run.dir={tmp_path}", f"init={{from: {run.path}, checkpoint: last}}", "name=tuned")
    assert tuned.read_config_tree()["train"]["precision"] == "float32"
    named = ("--config", config, f"run.dir={tmp_path}", "name=named", "train.precision=bfloat16")
    assert f"train.precision=bfloat16: {NO_BFLOAT16}; use train.precision=auto" in refused(train, capsys, *named)
    assert not (tmp_path / "named").exists()


def test_a_sweep_tells_its_runs(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: "it cannot")  # in this process, not in those of the runs
    sweep = "sweep={cells: [{name: a}], seeds: [0]}"
    assert run_train(config, tmp_path, "ops=auto", "name=study", "train.steps=1", sweep) == 0
    for folder in ("", "a/seed0"):
        run = RunFolder(tmp_path / "study" / folder)
        assert run.read_config_tree()["train"]["precision"] == "float32"
    assert read_metrics(run.evaluation("val"))["precision"] == "float32"


def test_processes_train_in_what_both_have(config: Path, tmp_path: Path) -> None:
    ended = processes.train(tmp_path, 2, config, code=TWO)
    assert "precision: float32, rank 1: it cannot" in ended[0][1]
    assert RunFolder.open(tmp_path / "tiny").read_config_tree()["train"]["precision"] == "float32"
