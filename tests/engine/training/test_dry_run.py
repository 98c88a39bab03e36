"""The rehearsal of a run."""

from engine.training.budget import Budget
from engine.training.dry_run import Rehearsal, format_rehearsal, format_seconds, rehearse
from engine.training.step import StepResult
from ops import backend, memory
from tests.engine.doubles import TinyData, tiny_config, tiny_step


def test_the_loss_is_that_of_the_first_step(tmp_path) -> None:
    config = tiny_config(tmp_path)
    batch = TinyData().batch(0, 0)
    step = tiny_step(config)
    step.model.train()
    expected = step([batch]).loss
    rehearsal = rehearse(tiny_step(config), [batch])
    assert rehearsal.result.loss == expected
    assert 0 < rehearsal.seconds < 60
    assert 0.01 < rehearsal.peak_memory_gb < 100
    assert rehearsal.device.endswith(f", operators: {backend.active()}")
    assert rehearsal.memory_limit == memory.describe_limit()


def test_times_of_epoch_and_run_follow_from_the_step() -> None:
    result = StepResult(loss=1.25, parts={}, grad_norm=3.0, learning_rate=1e-3)
    budget = Budget(total_steps=3000, steps_per_epoch=40, log_every=10, validate_every=100, save_every=100)
    lines = format_rehearsal(
        Rehearsal(result, 8.04, 2.0, 0.715, "Apple M2, operators: mlx", "16.2 GB (…)"), budget
    ).splitlines()
    assert lines == [
        "loss        1.2500 at the first step, gradient norm 3",
        "device      Apple M2, operators: mlx",
        "memory      0.71 GB at most; limit 16.2 GB (…)",
        "step        2.00 s (the first 8.0 s)",
        "epoch       40 steps, about 80 s",
        "run         3000 steps, about 100 min",
    ]
    assert format_seconds(7200) == "2.0 h"
