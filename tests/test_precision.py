"""train.precision from end to end: on a device with bfloat16, then on one without, and two that differ."""

import json
from pathlib import Path
from typing import Any

import pytest

import evaluate
import train
from data.synthetic.phantoms import write_phantoms
from engine.runs.run_folder import RunFolder
from ops import backend
from tests import processes
from tests.conftest import NO_BFLOAT16

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
    folder = tmp_path_factory.mktemp("precision")
    write_phantoms(folder / "data", 5, seed=0, shape=(24, 24, 24))
    file = folder / "tiny.yaml"
    file.write_text(f"""
name: tiny
ops: mlx
data:
  root: {folder / "data"}
  spacing_mm: [4, 4, 4]
  patch_size_voxels: [8, 8, 8]
  cache: {{folder: {folder / "cache"}}}
model: {{args: {{widths: [2, 4], convolutions: 1}}}}
train: {{steps: 2, log_every_steps: 1}}
checkpoint: {{every_steps: 1}}
evaluate: {{bootstrap_samples: 20}}
""")
    return file


def run_train(config: Path, folder: Path, *arguments: str) -> int:
    return train.main(["--config", str(config), f"run.dir={folder}", *arguments])


def evaluated(folder: Path, *arguments: str) -> Any:
    assert evaluate.main([*arguments, "--output", str(folder)]) == 0
    return json.loads((folder / "metrics.json").read_text())["precision"]


@pytest.fixture
def trained(config: Path, tmp_path: Path, native_bfloat16: None) -> RunFolder:
    """A run of auto, in bfloat16, of which one step is done."""
    assert run_train(config, tmp_path, "train.steps=1") == 0
    return RunFolder.open(tmp_path / "tiny")


def test_the_run_says_what_auto_became_and_keeps_it(config: Path, tmp_path: Path, trained: RunFolder) -> None:
    assert trained.read_config_tree()["train"]["precision"] == "bfloat16"
    assert trained.read_json("environment")["precision"] == "bfloat16"
    assert run_train(config, tmp_path, "--resume") == 0
    assert trained.read_config_tree()["train"]["precision"] == "bfloat16"
    assert evaluated(tmp_path / "out", "--run", str(trained.path)) == "bfloat16"
    override = ("--run", str(trained.path), "train.precision=float32")
    assert evaluated(tmp_path / "out", *override) == "float32"


def test_without_bfloat16_a_run_goes_on_by_the_override_alone(
    config: Path, tmp_path: Path, trained: RunFolder, no_bfloat16: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(config, tmp_path, "--resume") == 2
    message = f"train.py: {trained.path}: it trains in bfloat16, and {NO_BFLOAT16}; go on where"
    assert message in capsys.readouterr().err
    assert run_train(config, tmp_path, "--resume", "train.precision=float32") == 0
    assert trained.read_config_tree()["train"]["precision"] == "float32"
    environment = trained.read_json("environment")
    assert (environment["precision"], environment["resumed"][0]["precision"]) == ("bfloat16", "float32")
    assert [line["step"] for line in trained.read_metrics("train")] == [1, 2]
    assert run_train(config, tmp_path, "--resume", "train.steps=3") == 0  # float32 is its own now


def test_without_bfloat16_everything_else_falls_back(
    config: Path,
    tmp_path: Path,
    trained: RunFolder,
    no_bfloat16: None,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, images = str(trained.path), str(config.parent / "data" / "imagesTr")
    assert evaluate.main(["--run", run, "--export", str(tmp_path / "pack.zip")]) == 0
    line = f"train.precision=bfloat16: {NO_BFLOAT16}; predicting in float32"
    for arguments in (("--run", run, run), ("--run", run, "--images", images)):
        caplog.clear()
        assert evaluated(tmp_path / "out", *arguments) == "float32"
        assert caplog.messages.count(line) == 1
    caplog.clear()
    assert (
        evaluate.main(["--run", str(tmp_path / "pack.zip"), "--images", images, "--output", str(tmp_path / "o")]) == 0
    )
    assert caplog.messages.count(line) == 1
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["precision"] == "float32"
    begins = (f"init={{from: {trained.path}, checkpoint: last}}", "name=tuned")
    assert run_train(config, tmp_path, *begins) == 0
    assert RunFolder.open(tmp_path / "tuned").read_config_tree()["train"]["precision"] == "float32"
    assert run_train(config, tmp_path, "name=named", "train.precision=bfloat16") == 2
    assert f"train.precision=bfloat16: {NO_BFLOAT16}; use train.precision=auto" in capsys.readouterr().err
    assert not (tmp_path / "named").exists()


def test_a_sweep_tells_its_runs(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "why_no_bfloat16", lambda: "it cannot")  # in this process, not in those of the runs
    sweep = "sweep={cells: [{name: a}], seeds: [0]}"
    assert run_train(config, tmp_path, "ops=auto", "name=study", "train.steps=1", sweep) == 0
    for folder in ("", "a/seed0"):
        run = RunFolder(tmp_path / "study" / folder)
        assert run.read_config_tree()["train"]["precision"] == "float32"
    assert json.loads((run.evaluation("val") / "metrics.json").read_text())["precision"] == "float32"


def test_processes_train_in_what_both_have(config: Path, tmp_path: Path) -> None:
    ended = processes.run(tmp_path, 2, ["-c", TWO, "--config", str(config), f"run.dir={tmp_path}"])
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "precision: float32, rank 1: it cannot" in ended[0][1]
    assert RunFolder.open(tmp_path / "tiny").read_config_tree()["train"]["precision"] == "float32"
