"""train.py from end to end: real NIfTI files, real processes, real signals."""

import fcntl
import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import train
from engine.runs.run_folder import RunFolder
from tests.conftest import out_of_memory
from tests.runs import refused, trained, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STEPS = 40


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(
        tmp_path_factory.mktemp("train"),
        "data.augment={flip: {probability: 0.5}, noise: {probability: 0.5}}",
        "model.args.dropout.rate=0.3",
        "optim={learning_rate: 0.01, ema_decay: 0.9}",
        f"train={{steps: {STEPS}, validate_every_steps: 20}}",
        "checkpoint={every_steps: 5, keep: 3}",
    )


@pytest.fixture(scope="module")
def whole(config) -> RunFolder:
    """An uninterrupted run."""
    return trained(config)


def _start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "train.py", "--config", str(config), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _signal_after(process: subprocess.Popen[str], run: RunFolder, lines: int, number: int) -> str:
    """Send the signal once metrics.jsonl has so many lines; return what the process had to say."""
    give_up = time.monotonic() + 60
    while len(run.read_metrics()) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


def _losses(run: RunFolder) -> dict[int, tuple[float, float]]:
    lines = run.read_metrics("train")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines}


def _assert_same_run(run: RunFolder, other: RunFolder) -> None:
    assert _losses(run) == _losses(other)
    scores = [[line["dice.mean"] for line in each.read_metrics("val")] for each in (run, other)]
    assert len(scores[0]) == 2
    assert scores[0] == scores[1]
    for name in ("model", "ema", "optimizer"):
        files = [mx.load(str(each.checkpoint("last") / f"{name}.safetensors")) for each in (run, other)]
        assert files[0].keys() == files[1].keys()
        for tensor, value in files[0].items():
            np.testing.assert_array_equal(np.array(value), np.array(files[1][tensor]), err_msg=f"{name}: {tensor}")


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, train\ntry:\n    train.main(['--help'])\nfinally:\n    print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "key.path=value" in done.stdout
    assert not {"mlx", "numpy", "pydantic", "data", "engine", "models"} & set(done.stdout.split())


def test_the_run_folder_holds_what_the_run_was_made_of_and_it_learns(whole, config) -> None:
    environment = whole.read_json("environment")
    assert environment["packages"]["mlx"] == mx.__version__
    assert {"command", "device", "git", "operators", "data_fingerprint", "cores"} <= environment.keys()
    assert environment["operators"] == "mlx"
    splits = whole.read_json("splits")
    assert (len(splits["train"]), len(splits["val"])) == (4, 1)
    assert whole.read_json("skipped") == []
    assert whole.read_json("statistics")["num_channels"] == 1
    assert whole.checkpoint("last").resolve().name == str(STEPS)
    state = json.loads((whole.checkpoint("last") / "state.json").read_text())
    assert (state["step"], state["epoch"], state["batch"]) == (STEPS, STEPS // 2, 0)
    assert state["config"]["data"]["root"] == str(config.parent / "data")
    assert state["data_fingerprint"] == environment["data_fingerprint"]
    losses = [loss for loss, _ in _losses(whole).values()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2


def test_the_same_seed_gives_the_same_run_whatever_the_number_of_threads(whole, config, tmp_path) -> None:
    _assert_same_run(whole, trained(config, f"run.dir={tmp_path}", "data.workers=3"))


def test_a_killed_run_resumed_equals_an_uninterrupted_one(whole, config, tmp_path) -> None:
    run = RunFolder(tmp_path / "tiny")
    process = _start(config, f"run.dir={tmp_path}")
    _signal_after(process, run, lines=12, number=signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    _assert_same_run(whole, trained(config, f"run.dir={tmp_path}", "--resume"))
    assert len(run.read_json("environment")["resumed"]) == 1


def test_a_broken_last_checkpoint_falls_back_to_the_one_before(whole, config, tmp_path, caplog) -> None:
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "tiny", symlinks=True))
    os.truncate(run.checkpoint("last") / "optimizer.safetensors", 1000)
    trained(config, f"run.dir={tmp_path}", "--resume")
    message = r"optimizer\.safetensors: expected \d+ bytes, found 1000; .* falling back"
    assert re.search(message, caplog.text)
    _assert_same_run(whole, run)


def test_sigterm_finishes_the_step_saves_and_exits_with_143(whole, config, tmp_path) -> None:
    run = RunFolder(tmp_path / "tiny")
    process = _start(config, f"run.dir={tmp_path}")
    output = _signal_after(process, run, lines=3, number=signal.SIGTERM)
    assert process.returncode == 143
    step = len(run.read_metrics("train"))
    assert run.checkpoint("last").resolve().name == str(step)
    assert f"stopped by SIGTERM at step {step}, saved; continue with --resume" in output
    _assert_same_run(whole, trained(config, f"run.dir={tmp_path}", "--resume"))


def test_a_closed_terminal_saves(whole, config, tmp_path) -> None:
    run, (ours, theirs) = RunFolder(tmp_path / "tiny"), pty.openpty()
    command = [sys.executable, "train.py", "--config", str(config), f"run.dir={tmp_path}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    while len(run.read_metrics()) < 3:
        assert os.read(ours, 4096)  # raises OSError once the process has ended
    os.close(ours)
    process.wait(60)
    step = len(run.read_metrics("train"))
    assert run.checkpoint("last").resolve().name == str(step)
    assert step < STEPS
    assert train.main(["--config", str(config), f"run.dir={tmp_path}", "--resume"]) == 0
    _assert_same_run(whole, run)


def test_two_that_resume_one_run_at_once_are_told_apart(whole, config, tmp_path) -> None:
    run = RunFolder(tmp_path / "tiny")
    _signal_after(_start(config, f"run.dir={tmp_path}"), run, lines=12, number=signal.SIGKILL)
    both = [_start(config, f"run.dir={tmp_path}", "--resume") for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    second = both[0].returncode == 0  # a number: the second one, where the first trained
    expected = rf"train\.py: {run.path}: process {both[1 - second].pid} on \S+ trains this run since .*\n"
    assert re.fullmatch(expected, errors[second]), errors
    assert not (run.path / "run.lock").exists()
    _assert_same_run(whole, run)


def test_an_existing_run_is_neither_overwritten_nor_resumed_otherwise(whole, config, capsys) -> None:
    before = whole.metrics_path.read_bytes()
    said = refused(train, capsys, "--config", config)
    assert "this run exists already; continue it with --resume" in said
    assert whole.metrics_path.read_bytes() == before
    said = refused(train, capsys, "--config", config, "--resume", "optim.learning_rate=0.5")
    assert "optim.learning_rate: 0.01 -> 0.5" in said


def test_a_loss_that_is_not_finite_exits_with_1_and_names_the_cases(config, tmp_path, capsys) -> None:
    arguments = ["optim.learning_rate=1e30", "optim.clip_norm=null"]
    assert train.main(["--config", str(config), f"run.dir={tmp_path}", *arguments]) == 1
    message = capsys.readouterr().err
    assert re.search(r"train\.py: step \d+: loss .*cases: phantom_\d+, phantom_\d+\.", message), message


def test_dry_run_reports_and_begins_no_run(config, tmp_path, capsys) -> None:
    assert train.main(["--config", str(config), f"run.dir={tmp_path}", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"parameters  [\d,]{3,}\n", output)
    assert re.search(r"\S+\.drop +channel +0\.3 +bottleneck", output)
    assert re.search(r"epoch       2 steps, about \d", output)
    assert (tmp_path / "tiny" / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert os.listdir(tmp_path / "tiny") == ["batch.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lr=3"], "optim.lr: unknown key; did you mean learning_rate?"),
        (["data.root=missing"], "data.root=missing"),
        (["checkpoint.metric=dice.liver"], "checkpoint.metric=dice.liver: validation reports dice.mean, dice."),
        (["loss.class_weights=[1,2]"], "loss.class_weights has 2 entries, but the data has 4 classes"),
        (["optim.warmup_steps=40", "data.root=missing"], "optim.warmup_steps=40 must be below the run's 40 steps"),
        (["train.batch_size=9"], "train.batch_size=9 is more than the 4 training cases"),
        (["train.accumulate=3"], "train.accumulate=3 is more than the 2 batches of an epoch"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    config, tmp_path, capsys, arguments: Sequence[str], message: str
) -> None:
    assert message in refused(train, capsys, "--config", config, f"run.dir={tmp_path}", *arguments)
    assert not RunFolder(tmp_path / "tiny").exists()


def test_running_out_of_memory_ends_with_a_message(config, tmp_path, monkeypatch, capsys, caplog) -> None:
    caplog.set_level(logging.INFO, logger="mlx_volumes")
    out_of_memory(monkeypatch)
    assert train.main(["--config", str(config), f"run.dir={tmp_path}", "memory_limit_gb=3"]) == 1
    assert "memory limit: 3.0 GB (memory_limit_gb)" in caplog.messages
    said = capsys.readouterr().err
    step = "a training step on (2, 8, 8, 8, 1) (N, D, H, W, C), float32"
    assert said.startswith(f"train.py: out of memory in {step}: [malloc] Unable to allocate")
    assert "Traceback" not in said
