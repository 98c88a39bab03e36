"""Running a sweep, with stand-ins for the scripts that it calls."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs import Config
from engine.runs.lock import hold
from engine.training.budget import Budget
from studies.sweep import run as runner
from studies.sweep.estimate import Pace, list_sweep
from studies.sweep.run import run_sweep
from tests.studies.tiny import KIND, RATE, tiny_sweep

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture
def orders(tmp_path, monkeypatch, caplog) -> Callable[..., None]:
    """Make a sweep call the stand-ins, and give them orders: orders({folder: [words]})."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("train", "evaluate"):
        shutil.copy(HERE / f"stub_{name}.py", scripts / f"{name}.py")
    monkeypatch.setattr(runner, "_SCRIPTS", scripts)
    monkeypatch.setattr(runner, "_LOOK_EVERY_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "mlx_volumes")

    def write(words: dict[str, list[str]] | None = None) -> None:
        (tmp_path / "orders.json").write_text(json.dumps(words or {}))

    write()
    return write


def count(config: Config, script: str) -> int:
    return [name for name, _ in calls(config)].count(script)


def calls(config: Config) -> list[tuple[str, list[str]]]:
    """Return what was called, from the logs: (script, its arguments), run by run."""
    found = []
    for log in sorted(config.run_folder.glob("*/*/log.txt")):
        for line in log.read_text().splitlines():
            if match := re.match(r"(train|evaluate) (\[.*)", line):
                found.append((match[1], json.loads(match[2])))
    return found


def test_every_run_is_trained_and_evaluated_once(tmp_path, orders, caplog) -> None:
    config = tiny_sweep(tmp_path, {"grid": {KIND: ["none", "channel"]}, "seeds": [0, 1], "train_cases": 3})
    assert run_sweep(config) == 0
    assert [script for script, _ in calls(config)] == ["train", "evaluate", "evaluate"] * 4
    study = config.run_folder
    run = f"{study}/kind=none/seed1"
    settings = ["data.fold=0", 'model.args.dropout.kind="none"', "sweep=null"]
    named = ["--config", f"{study}/config.yaml", "--resume", 'name="study/kind=none/seed1"', "seed=1"]
    assert calls(config)[9:] == [
        ("train", [*named, *settings]),
        ("evaluate", ["--run", run, "--checkpoint", "last", "--split", "val"]),
        ("evaluate", ["--run", run, "--checkpoint", "last", "--split", "train", "evaluate.cases=3"]),
    ]
    assert re.search(r"4/4 kind=\w+/seed1: dice\.mean 0\.5000, \d+ s; left about 0 s", caplog.text)
    assert run_sweep(config) == 0
    assert "4 of 4 runs are finished, 0 to go" in caplog.text
    assert len(calls(config)) == 12
    cells = json.loads((study / "sweep.json").read_text())["cells"]
    assert [cell["name"] for cell in cells] == ["kind=none", "kind=channel"]


def test_a_failing_run_stops_no_other_and_is_tried_again(tmp_path, orders, caplog) -> None:
    config = tiny_sweep(tmp_path)
    orders({"kind=none/seed0": ["fail"], "kind=channel/seed1": ["give up"]})
    assert run_sweep(config) == 1
    assert "kind=none/seed0: FAILED: train.py: step 2: loss nan (exit code 1, " in caplog.text
    assert "kind=channel/seed1: FAILED: training was stopped before its end" in caplog.text
    assert re.search(r"2 of 4 runs failed: kind=(none/seed0|channel/seed1), .*; the same command tries", caplog.text)
    assert count(config, "evaluate") == 2
    orders()
    assert run_sweep(config) == 0
    assert count(config, "train") == 6


def test_an_interrupt_is_passed_on_and_the_same_call_goes_on(tmp_path, orders, caplog) -> None:
    config = tiny_sweep(tmp_path)
    orders({"kind=none/seed0": ["interrupt"]})
    before = signal.getsignal(signal.SIGINT)
    assert run_sweep(config) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped by SIGINT; the same command continues from here" in caplog.text
    none = config.run_folder / "kind=none" / "seed0"
    assert (none / "checkpoints" / "last").resolve().name == "2"  # saved after the step
    assert not (none / "eval").exists()
    assert run_sweep(config) == 0
    assert (none / "checkpoints" / "last").resolve().name == "4"
    assert len(list(config.run_folder.glob("*/*/eval/val/metrics.json"))) == 4


def test_a_stop_file_ends_it_and_only_runs_a_part(tmp_path, orders) -> None:
    config = tiny_sweep(tmp_path)
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "STOP").touch()
    assert run_sweep(config) == 0
    assert calls(config) == []
    assert not (config.run_folder / "STOP").exists()
    assert run_sweep(config, "*channel/seed1") == 0
    assert [log.parent.name for log in config.run_folder.glob("*/*/log.txt")] == ["seed1"]
    assert len(json.loads((config.run_folder / "sweep.json").read_text())["runs"]) == 4


def test_a_stale_evaluation_is_made_again(tmp_path, orders) -> None:
    config = tiny_sweep(tmp_path)
    assert run_sweep(config) == 0
    for folder, changes in (
        ("kind=none/seed0", {"failed": [{"case": "a"}]}),
        ("kind=none/seed1", {"checkpoint": {"step": 3}}),
    ):
        path = config.run_folder / folder / "eval" / "val" / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert run_sweep(config) == 0
    assert count(config, "train") == 4
    assert count(config, "evaluate") == 6


def test_cells_and_seeds_may_be_added(tmp_path, orders) -> None:
    assert run_sweep(tiny_sweep(tmp_path, {"cells": [{KIND: "none"}], "seeds": [0]})) == 0
    more = tiny_sweep(tmp_path, {"grid": {KIND: ["channel", "none"]}, "seeds": [1, 0]}, threads=1)
    assert run_sweep(more) == 0
    assert count(more, "train") == 4


def test_what_no_score_depends_on_may_change_when_a_sweep_goes_on(tmp_path, orders) -> None:
    assert run_sweep(tiny_sweep(tmp_path), "kind=none/seed0") == 0
    train, checkpoint = {"log_every_steps": 1, "compile": "never"}, {"keep": 1, "every_steps": 2}
    sections = {"train": train, "checkpoint": checkpoint, "distributed": {"timeout_seconds": 5}, "ops": "mlx"}
    assert run_sweep(tiny_sweep(tmp_path, **sections), "kind=none/seed1") == 0
    assert count(tiny_sweep(tmp_path), "train") == 2


@pytest.mark.parametrize(
    ("sweep", "sections", "message"),
    [
        ({"grid": {KIND: ["none"]}, "seeds": [0, 1]}, {}, "  cell kind=channel: gone"),
        ({"grid": {KIND: ["none", "channel"]}, "seeds": [0]}, {}, "  run kind=channel/seed1: gone"),
        (None, {"optim": {"learning_rate": 0.5}}, r"  optim\.learning_rate: 0\.001 -> 0\.5"),
        (None, {"evaluate": {"overlap": 0.25}}, r"  evaluate\.overlap: 0\.5 -> 0\.25"),
        (None, {"train": {"steps": 9}}, r"  train\.steps: 4 -> 9"),
        ({"grid": {KIND: ["none", "channel"]}, "seeds": [0, 1], "train_cases": 2}, {}, r"  sweep\.train_cases: 0 -> 2"),
        (
            {"cells": [{"name": "kind=none", RATE: 0.2}, {"name": "kind=channel"}], "seeds": [0, 1]},
            {},
            "  cell kind=none: {",
        ),
    ],
)
def test_a_changed_sweep_is_refused(tmp_path, orders, sweep: Any, sections: dict[str, Any], message: str) -> None:
    assert run_sweep(tiny_sweep(tmp_path), "kind=none/seed0") == 0
    with pytest.raises(ValueError, match="the sweep's config changed since it began") as error:
        run_sweep(tiny_sweep(tmp_path, sweep, **sections))
    assert re.search(message, str(error.value))
    with pytest.raises(ValueError, match="the sweep's config changed"):
        list_sweep(tiny_sweep(tmp_path, sweep, **sections), None, lambda _: pytest.fail("rehearsed"))


def test_a_runs_folder_is_left_alone(tmp_path, orders) -> None:
    config = tiny_sweep(tmp_path)
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "config.yaml").write_text("name: study\n")
    with pytest.raises(ValueError, match=r"this is a run, not a sweep; choose another name=\.\.\."):
        run_sweep(config)


def test_each_split_is_asked_for_validation_cases_before_the_first_run(tmp_path, orders) -> None:
    sweep = {"grid": {KIND: ["none", "channel"]}, "seeds": [0, 1], "folds": [0, 1]}
    asked: list[int] = []

    def count_cases(config: Config) -> int:
        asked.append(config.data.fold)
        return 1 - config.data.fold

    config = tiny_sweep(tmp_path, sweep)
    expected = r"/seed0-fold1: data\.split\.kind=kfold leaves no labelled case for validation"
    with pytest.raises(ValueError, match=expected):
        run_sweep(config, None, count_cases)
    assert asked == [0, 1]
    assert not config.run_folder.exists()
    assert run_sweep(config, "*fold0", count_cases) == 0
    assert run_sweep(config, "*fold0", lambda _: pytest.fail("asked, though all runs are finished")) == 0


def test_two_processes_do_not_share_a_sweep(tmp_path, orders) -> None:
    config = tiny_sweep(tmp_path)
    with (
        hold(config.run_folder, "works on this sweep"),
        pytest.raises(
            ValueError, match=rf"process {os.getpid()} on \S+ works on this sweep since .*; wait for it, or end it"
        ),
    ):
        run_sweep(config)
    assert run_sweep(config) == 0


def test_a_run_ends_with_the_process_that_started_it(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, time\nprint(sys.argv, sys.path[0], flush=True)\ntime.sleep(30)\n")
    child = Path(runner.__file__).with_name("entry.py")
    process = subprocess.Popen(
        [sys.executable, str(child), str(script), "a=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == f"{[str(script), 'a=1']} {tmp_path}\n"
    started = time.monotonic()
    process.stdin.close()
    assert process.wait(timeout=10) == -signal.SIGTERM
    assert time.monotonic() - started < 10
    process.stdout.close()


def test_a_dry_run_lists_cells_and_times(tmp_path, orders) -> None:
    sweep = {"grid": {KIND: ["none", "channel"], RATE: [0.1, 0.2]}, "seeds": [0, 1, 2], "train_cases": 5}
    config = tiny_sweep(tmp_path, sweep)
    rehearsed = []

    def rehearse(cell: Config) -> Pace:
        rehearsed.append(cell.model.args.dropout.kind)
        return Pace(Budget.of(cell, 3), 10.0, 2.0, {"train": 3, "val": 8})

    text = list_sweep(config, None, rehearse)
    assert not config.run_folder.exists()
    assert sorted(rehearsed) == ["channel", "none"]  # rates take as long as each other
    # 4 steps of 10 s; 4 validations and an evaluation of 8 cases, one of 3, at 2 s: 126 s
    assert [re.split("  +", line) for line in text.splitlines()] == [
        ["cell", "dropout layers", "runs", "finished", "a run takes"],
        ["kind=none,rate=0.1", "none", "3", "0", "2 min"],
        ["kind=none,rate=0.2", "none", "as kind=none,rate=0.1"],
        ["kind=channel,rate=0.1", "3 channel 0.1 in encoder, bottleneck, decoder", "3", "0", "2 min"],
        ["kind=channel,rate=0.2", "3 channel 0.2 in encoder, bottleneck, decoder", "3", "0", "2 min"],
        ["9 runs, 0 of them finished; about 19 min left"],
    ]
    assert run_sweep(config, "kind=none*/seed0") == 0
    text = list_sweep(config, "kind=none*", rehearse)
    assert text.splitlines()[1].split()[-4:] == ["3", "1", "13", "s"]  # 8 + 1 + 2 · 4 · 0.5: as the finished one
    assert text.splitlines()[-1] == "3 runs, 1 of them finished; about 26 s left"
