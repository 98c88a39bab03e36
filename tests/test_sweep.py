"""A sweep by train.py from end to end: real processes, a real kill."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from engine.runs.run_folder import RunFolder
from tests.runs import refused, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path) -> Path:
    return write_config(
        tmp_path,
        "name=study",
        "train={steps: 400, validate_every_steps: 400}",
        "sweep={cells: [{name: channel, model.args.dropout.rate: 0.3}], seeds: [7], train_cases: 2}",
    )


def test_a_killed_sweep_goes_on_by_the_same_command(config, tmp_path) -> None:
    command = [sys.executable, "train.py", "--config", str(config)]
    run = RunFolder(tmp_path / "runs" / "study" / "channel" / "seed7")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 120
    while len(run.read_metrics()) < 5:
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (run.path / "log.txt").read_text()
    assert "stopped by SIGTERM at step" in log  # the run ended with its sweep, and saved
    assert "resumed from" in log
    assert run.checkpoint("last").resolve().name == "400"
    assert [line["step"] for line in run.read_metrics("train")] == list(range(1, 401))
    assert run.read_config_tree()["seed"] == 7
    for split, cases in (("val", 1), ("train", 2)):
        rows = (run.evaluation(split) / "cases.csv").read_text().splitlines()[1:]
        assert len({row.split(",")[0] for row in rows}) == cases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "--only nothing: no run of study matches; there are channel/seed7"),
        (["--only", "*", "sweep=null"], "--only chooses runs of a sweep; "),
        (
            ["data.split={kind: ratio, ratio: [0.8, 0.0, 0.2]}"],
            "channel/seed7: data.split.ratio=[0.8, 0.0, 0.2] leaves no labelled case for validation, and a sweep's",
        ),
        (["sweep.cells=[{model.args.dropout.rate: 1.5}]"], "study: cell rate=1.5: 1 problem(s)\n  model.args.dropout"),
    ],
)
def test_mistakes_are_told_before_anything_runs(config, tmp_path, capsys, arguments: list[str], message: str) -> None:
    assert f"train.py: {message}" in refused(train, capsys, "--config", config, *arguments)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_rehearses_and_leaves_no_run(config, tmp_path, capsys) -> None:
    assert train.main(["--config", str(config), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "channel  3 channel 0.3 in encoder, bottleneck, decoder  1     0" in lines[-2]
    assert lines[-1].startswith("1 runs, 0 of them finished; about ")
    assert not (tmp_path / "runs" / "study").exists()
