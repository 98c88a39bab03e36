"""The bar on a terminal; plain lines are tested with the loop."""

import io
import logging
import sys

import pytest

from engine.runs.run_folder import RunFolder
from engine.training.progress import Position, Progress, ShowPreparation
from engine.training.step import StepResult


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_and_messages_above_it(tmp_path, monkeypatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    result = StepResult(loss=0.25, parts={"dice": 0.25}, grad_norm=1.0, learning_rate=1e-3)
    position = Position(step=5)
    with Progress(RunFolder(tmp_path), position, total_steps=10, steps_per_epoch=5) as progress:
        position.step += 1
        progress.stepped(result, samples=4, seconds=2.0, waiting_seconds=0.5, log_now=True)
        logging.getLogger("mlx_volumes").warning("a message")
    shown = terminal.getvalue()
    assert "6/10" in shown
    assert "loss 0.2500, 2.00 samples/s" in shown
    assert RunFolder(tmp_path).read_metrics()[0]["wait_share"] == 0.25


def test_a_position_survives_json_with_its_unfinished_interval() -> None:
    position = Position(step=3, best_score=0.1 + 0.2)
    result = StepResult(loss=1 / 3, parts={"dice": 1 / 7}, grad_norm=0.1, learning_rate=1e-3)
    position.interval.add(result, samples=2, seconds=0.5, waiting_seconds=0.0)
    assert Position.from_json(position.to_json()) == position
    assert Position.from_json(position.to_json()).interval.parts == pytest.approx({"dice": 1 / 7})


def test_preparation_is_logged_every_ten_seconds_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr("engine.training.progress.time.monotonic", lambda: now[0])
    show = ShowPreparation()
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        for done, seconds in ((1, 105.0), (2, 111.0), (3, 115.0), (4, 116.0)):
            now[0] = seconds
            show(done, 4)
    assert caplog.messages == ["prepared 2 of 4 cases", "prepared 4 of 4 cases"]
