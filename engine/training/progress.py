"""What a run reports while it trains: lines in metrics.jsonl, and a bar or plain lines on the terminal."""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from engine.runs.environment import peak_memory_gb
from engine.runs.run_folder import RunFolder
from engine.training.step import StepResult

_log = logging.getLogger("mlx_volumes")


@dataclass
class Interval:
    """Sums over the steps since the last line of metrics.jsonl."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    loss: float = 0.0
    grad_norm: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, result: StepResult, samples: int, seconds: float, waiting_seconds: float) -> None:
        self.steps += 1
        self.samples += samples
        self.seconds += seconds
        self.waiting_seconds += waiting_seconds
        self.loss += result.loss
        self.grad_norm += result.grad_norm
        for name, value in result.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value


@dataclass
class Position:
    """How far a run is. It is saved with each checkpoint, the unfinished interval included."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    seconds: float = 0.0  # of training without validation, summed over resumed runs
    waiting_seconds: float = 0.0  # the part of these spent waiting for data
    validation_seconds: float = 0.0
    validated_step: int = 0
    recalibrated_step: int = 0  # after which the norms' statistics were measured again
    best_score: float | None = None
    best_step: int | None = None
    validations_since_best: int = 0
    interval: Interval = field(default_factory=Interval)

    @classmethod
    def from_json(cls, state: Any) -> Self:
        """Return the position of a state.json; raise ValueError for anything else."""
        try:
            position: Self = TypeAdapter(cls).validate_python(state)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return position

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Progress:
    """Writes a run's metrics and shows its progress: a bar on a terminal, lines elsewhere."""

    def __init__(self, run: RunFolder, position: Position, total_steps: int, steps_per_epoch: int) -> None:
        self._run = run
        self._position = position
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._bar = tqdm(
            total=total_steps, initial=position.step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
        )
        self._context = ExitStack()

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._context.enter_context(logging_redirect_tqdm())
        self._context.enter_context(self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def stepped(self, result: StepResult, samples: int, seconds: float, waiting_seconds: float, log_now: bool) -> None:
        """Add one step; with `log_now` write the interval's line and begin the next interval."""
        position, interval = self._position, self._position.interval
        position.seconds += seconds
        position.waiting_seconds += waiting_seconds
        interval.add(result, samples, seconds, waiting_seconds)
        self._bar.update()
        if not log_now:
            return
        line = {
            **self._head("train"),
            "loss": interval.loss / interval.steps,
            **{f"loss_{name}": value / interval.steps for name, value in interval.parts.items()},
            "learning_rate": result.learning_rate,
            "grad_norm": interval.grad_norm / interval.steps,
            "samples_per_second": interval.samples / interval.seconds,
            "wait_share": interval.waiting_seconds / interval.seconds,
            "peak_memory_gb": peak_memory_gb(),
        }
        self._run.append_metrics(line)
        self._show(line)
        position.interval = Interval()

    def validated(self, scores: Mapping[str, float]) -> None:
        """Write the line of a validation."""
        self._run.append_metrics({**self._head("val"), **scores})

    def _head(self, split: str) -> dict[str, Any]:
        position = self._position
        return {
            "step": position.step,
            "epoch": (position.step - 1) // self._steps_per_epoch,
            "split": split,
            "seconds": position.seconds,
            "validation_seconds": position.validation_seconds,
        }

    def _show(self, line: dict[str, Any]) -> None:
        if not self._bar.disable:
            self._bar.set_postfix_str(f"loss {line['loss']:.4f}, {line['samples_per_second']:.2f} samples/s")
            return
        position = self._position
        left = (self._total_steps - position.step) * position.seconds / position.step
        _log.info(
            "step %d/%d  epoch %d  loss %.4f  rate %.2e  norm %.2f  %.2f samples/s  waiting %.1f %%  left %s",
            position.step,
            self._total_steps,
            line["epoch"],
            line["loss"],
            line["learning_rate"],
            line["grad_norm"],
            line["samples_per_second"],
            100 * line["wait_share"],
            tqdm.format_interval(left),
        )


class ShowPreparation:
    """Logs the progress of preparation, every ten seconds and at the end."""

    def __init__(self) -> None:
        self._due = time.monotonic() + 10

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() > self._due:
            self._due = time.monotonic() + 10
            _log.info("prepared %d of %d cases", done, total)
