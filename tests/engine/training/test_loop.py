"""The loop: budgets, validation, best and last, stopping, resuming."""

import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from configs import Config
from engine.runs.checkpoints import steps_in
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest
from engine.training.budget import Budget
from engine.training.loop import Hooks, NonFiniteError, fit, restore
from engine.training.progress import Position
from engine.training.step import StepResult, TrainStep
from machine import disk
from tests.engine.doubles import TinyData, arrays_of, assert_same, parameters_of, tiny_config, tiny_step


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to a busy disk takes most of these tests' time, and no power fails here."""
    monkeypatch.setattr(disk, "flush", lambda descriptor: None)


def _train(
    config: Config, validate: Callable[[nn.Module], Any] | None = None, data: TinyData | None = None, **settings: Any
) -> tuple[RunFolder, TrainStep, Position]:
    """Train or resume the run of this config."""
    run = RunFolder(config.run_folder)
    if not run.exists():
        run = RunFolder.create(config)
    data = data or TinyData()
    step = tiny_step(config, seed=config.seed)
    position = restore(step, data, run)
    with StopRequest(run.stop_path) as stop:
        fit(step, data, run, config, position, stop, validate, **settings)
    return run, step, position


def _losses(run: RunFolder) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.read_metrics("train")]


def _scores(values: list[float]) -> Callable[[nn.Module], dict[str, float]]:
    iterator = iter(values)
    return lambda model: {"dice.mean": next(iterator)}


def test_steps_epochs_and_what_is_due() -> None:
    config = tiny_config(Path("runs"), train={"steps": None, "epochs": 3, "accumulate": 2})
    budget = Budget.of(config, 5)
    assert (budget.total_steps, budget.steps_per_epoch) == (6, 2)
    budget = Budget.of(tiny_config(Path("runs"), train={"steps": 95}), 5)
    assert (budget.validate_every, budget.save_every) == (10, 10)
    assert [s for s in range(96) if budget.due(budget.validate_every, s)] == [*range(10, 91, 10), 95]
    with pytest.raises(ValueError, match=r"train\.accumulate=6 is more than the 5 batches of an epoch"):
        Budget.of(tiny_config(Path("runs"), train={"accumulate": 6}), 5)


def test_metrics_hold_every_step_in_epochs_of_five(tmp_path) -> None:
    data = TinyData()
    run, _, position = _train(tiny_config(tmp_path), data=data)
    lines = run.read_metrics("train")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines] == [0] * 5 + [1] * 5 + [2] * 2
    expected = {"loss", "loss_dice", "loss_cross_entropy", "learning_rate", "grad_norm", "seconds", "wait_share"}
    assert expected | {"validation_seconds", "samples_per_second", "peak_memory_gb"} <= lines[0].keys()
    assert lines[0]["learning_rate"] == pytest.approx(0.01)
    assert all(0 < line["wait_share"] < 1 for line in lines)
    assert lines[-1]["seconds"] <= position.seconds
    assert run.checkpoint("best").resolve().name == "12"  # the last, without validation
    assert [stream.closed for stream in data.streams] == [True] * 3  # one an epoch


@pytest.mark.slow
def test_a_line_is_the_mean_of_its_interval(tmp_path) -> None:
    each, _, _ = _train(tiny_config(tmp_path / "a"))
    fours, _, _ = _train(tiny_config(tmp_path / "b", train={"log_every_steps": 4}))
    losses = [loss for _, loss in _losses(each)]
    expected = {4: np.mean(losses[:4]), 8: np.mean(losses[4:8]), 12: np.mean(losses[8:])}
    assert dict(_losses(fours)) == pytest.approx(expected)


def test_the_best_score_decides_which_checkpoint_is_best(tmp_path) -> None:
    config = tiny_config(tmp_path, train={"validate_every_steps": 2})
    run, _, position = _train(config, _scores([0.1, 0.5, math.nan, 0.4, 0.5, 0.3]))
    assert (position.best_step, position.best_score) == (4, 0.5)
    assert run.checkpoint("best").resolve().name == "4"
    assert run.checkpoint("last").resolve().name == "12"
    assert steps_in(run.checkpoints) == [4, 10, 12]
    assert [line["dice.mean"] for line in run.read_metrics("val")] == [0.1, 0.5, None, 0.4, 0.5, 0.3]
    config = tiny_config(tmp_path / "min", train={"validate_every_steps": 4}, checkpoint={"mode": "min"})
    _, _, position = _train(config, _scores([3, 1, 2]))
    assert position.best_step == 8
    config = tiny_config(tmp_path / "unknown", checkpoint={"metric": "dice.liver"})
    with pytest.raises(ValueError, match=r"checkpoint\.metric=dice\.liver: validation reports dice\.mean"):
        _train(config, _scores([0.1]))


def test_early_stop_saves_and_stays_stopped(tmp_path) -> None:
    config = tiny_config(tmp_path, train={"validate_every_steps": 1, "early_stop_validations": 2})
    run, _, position = _train(config, _scores([0.1, 0.2, 0.2, 0.1]))
    assert position.step == 4
    assert run.checkpoint("last").resolve().name == "4"
    _, _, position = _train(config, _scores([]))
    assert position.step == 4


def test_validation_sees_the_average_in_evaluation_mode_and_leaves_no_trace(tmp_path) -> None:
    seen = []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append(parameters_of(model))
        model(mx.ones((1, 4, 4, 4, 1)))
        return {"dice.mean": 0.5}

    run, step, _ = _train(tiny_config(tmp_path / "a", train={"validate_every_steps": 3}), validate)
    assert step.model.training
    assert len(seen) == 4
    assert_same(seen[-1], {name: step.tensors()["ema"][name] for name in seen[-1]})
    other, same, _ = _train(tiny_config(tmp_path / "b", train={"validate_every_steps": 3}))
    assert _losses(run) == _losses(other)
    assert_same(arrays_of(same), arrays_of(step))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("log_every", [1, 5])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, accumulate: int, log_every: int) -> None:
    train = {"accumulate": accumulate, "log_every_steps": log_every, "validate_every_steps": 4}
    whole, step, _ = _train(tiny_config(tmp_path / "a", train=train), _scores([0.1, 0.2, 0.3]))

    config = tiny_config(tmp_path / "b", train=train)
    run = RunFolder.create(config)
    run.append_metrics({"step": 9, "split": "train", "loss": 0.0})  # left by a process killed before it saved

    class StoppedData(TinyData):
        """Asks for the end while the batches of step 7 are read."""

        def batch(self, epoch: int, position: int) -> dict[str, np.ndarray]:
            if epoch * (5 // accumulate) + position // accumulate == 6:
                run.stop_path.touch()
            return super().batch(epoch, position)

    scores = _scores([0.1, 0.2, 0.3])
    _, _, position = _train(config, scores, StoppedData())
    assert position.step == 7
    assert not run.stop_path.exists()
    _, resumed, _ = _train(config, scores)
    assert _losses(run) == _losses(whole)
    assert [(v["step"], v["dice.mean"]) for v in run.read_metrics("val")] == [(4, 0.1), (8, 0.2), (12, 0.3)]
    assert_same(arrays_of(resumed), arrays_of(step))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_validation_saves_and_validates_on_resuming(tmp_path, number: int, code: int) -> None:
    config = tiny_config(tmp_path, train={"validate_every_steps": 4})
    run, data, step = RunFolder.create(config), TinyData(), tiny_step(config)
    stop = StopRequest(run.stop_path)

    def interrupted(model: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), number)
        stop.raise_if_requested()
        raise AssertionError("not reached")

    with stop:
        fit(step, data, run, config, Position(), stop, interrupted)
    assert stop.exit_code == code
    assert run.checkpoint("last").resolve().name == "4"
    _train(config, _scores([0.7, 0.8, 0.9]))
    assert [(v["step"], v["dice.mean"]) for v in run.read_metrics("val")] == [(4, 0.7), (8, 0.8), (12, 0.9)]


class _PoisonedData(TinyData):
    """An infinite voxel in the third batch of the second epoch."""

    def batch(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        batch = super().batch(epoch, position)
        if (epoch, position) == (1, 2):
            batch["x"][0, 0, 0, 0, 0] = np.inf
        return batch


def test_a_loss_that_is_not_finite_names_step_cases_and_checkpoint(tmp_path) -> None:
    config = tiny_config(tmp_path, checkpoint={"every_steps": 3})
    names = [f"case_{i}" for i in range(10)]
    expected = r"step 8: loss nan .*; cases: case_4, case_5\. .*checkpoints/6\."
    with pytest.raises(NonFiniteError, match=expected) as error:
        _train(config, data=_PoisonedData(), name_case=names.__getitem__)
    assert "gradient norm nan" in str(error.value)
    run = RunFolder(config.run_folder)
    assert steps_in(run.checkpoints) == [3, 6]
    weights = mx.load(str(run.checkpoint("last") / "model.safetensors"))
    assert all(bool(mx.isfinite(a).all()) for a in weights.values())
    assert len(run.read_metrics("train")) == 7


def test_hooks_are_called_after_steps_and_validations_and_at_the_end(tmp_path) -> None:
    calls: list[tuple[Any, ...]] = []
    hooks = Hooks(
        on_step=lambda step, model, result: calls.append(("step", step, model.training, result.loss)),
        on_validation=lambda step, model, scores: calls.append(("validation", step, model.training, dict(scores))),
        on_end=lambda step, model: calls.append(("end", step, isinstance(model, nn.Module))),
    )
    config = tiny_config(tmp_path / "a", train={"validate_every_steps": 5})
    run, step, _ = _train(config, _scores([0.1, 0.2, 0.3]), hooks=hooks)
    losses = [("step", number, True, loss) for number, loss in _losses(run)]
    validations = [("validation", number, True, {"dice.mean": score}) for number, score in ((5, 0.1), (10, 0.2))]
    last = [("validation", 12, True, {"dice.mean": 0.3}), ("end", 12, True)]
    assert calls == [*losses[:5], validations[0], *losses[5:10], validations[1], *losses[10:], *last]

    other, same, _ = _train(tiny_config(tmp_path / "b", train={"validate_every_steps": 5}), _scores([0.1, 0.2, 0.3]))
    assert _losses(run) == _losses(other)
    assert_same(arrays_of(same), arrays_of(step))


def test_a_hook_may_ask_for_the_end_and_its_error_ends_the_run(tmp_path) -> None:
    config, ends = tiny_config(tmp_path), []

    def stop_at_3(step: int, model: nn.Module, result: StepResult) -> None:
        if step == 3:
            (config.run_folder / "STOP").touch()

    run, _, position = _train(config, hooks=Hooks(on_step=stop_at_3, on_end=lambda step, _: ends.append(step)))
    assert (position.step, ends) == (3, [3])
    assert steps_in(run.checkpoints) == [2, 3]

    def fail(step: int, model: nn.Module, result: StepResult) -> None:
        raise RuntimeError(f"no such tracker, at step {step}")

    with pytest.raises(RuntimeError, match="no such tracker, at step 4"):
        _train(config, hooks=Hooks(on_step=fail, on_end=lambda step, _: ends.append(step)))
    assert ends == [3]


def test_data_that_changed_are_refused_on_resuming(tmp_path) -> None:
    config = tiny_config(tmp_path)
    _train(config)
    other = TinyData()
    other.fingerprint = "other"
    with pytest.raises(ValueError, match=r"the data changed since this run began \(fingerprint tiny, now other\)"):
        _train(config, data=other)


def test_plain_lines_tell_progress_where_there_is_no_terminal(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        _train(tiny_config(tmp_path, train={"log_every_steps": 6}))
    assert "step 6/12  epoch 1  loss " in caplog.text
    assert "samples/s  waiting" in caplog.text
    assert "% waiting for data" in caplog.text


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path) -> None:
    """Resident memory at step 300 within 2 % of step 100."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("needs /proc")
    seen: dict[int, int] = {}

    class WatchedData(TinyData):
        count = 0

        def batch(self, epoch: int, position: int) -> dict[str, np.ndarray]:
            self.count += 1
            seen[self.count] = int(pages.read_text().split()[1])
            return super().batch(epoch, position)

    steps = {"steps": 305, "log_every_steps": 10, "validate_every_steps": 50}
    _train(tiny_config(tmp_path, train=steps), data=WatchedData())
    assert seen[300] <= 1.02 * seen[100]
