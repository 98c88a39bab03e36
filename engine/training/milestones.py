"""What happens between steps: norms are recalibrated, the model is validated, checkpoints are written."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from configs import Config
from engine.distributed.group import Group
from engine.runs.checkpoints import save_checkpoint
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.batches import Feed
from engine.training.budget import Budget, out_of_patience, recalibration_is_due, validation_is_due
from engine.training.progress import Position, Progress
from engine.training.recalibrate import recalibrate_norms
from engine.training.step import StepResult, TrainStep
from ops import memory

_log = logging.getLogger("mlx_volumes")

Validate = Callable[[nn.Module], Mapping[str, float]]  # model in evaluation mode -> {"dice.mean": ...}


def _nothing(*_: Any) -> None: ...


@dataclass(frozen=True)
class Hooks:
    """Functions of your own that the loop calls, with the number of steps done and the model first.

    on_step        after each step, with its StepResult
    on_validation  after each validation, with its scores; the model is in training mode again
    on_end         once at the end of training: finished, stopped early or stopped by request

    Their time does not count as training. An error in one ends the run. They may change the model's arrays and nothing
    else of it (a compiled step sees no other change). In a group they run in all processes.
    """

    on_step: Callable[[int, nn.Module, StepResult], Any] = _nothing
    on_validation: Callable[[int, nn.Module, Mapping[str, float]], Any] = _nothing
    on_end: Callable[[int, nn.Module], Any] = _nothing


NO_HOOKS = Hooks()


@dataclass(frozen=True)
class Milestones:
    """Does what is due between steps; in a group all processes call it, and rank 0 writes."""

    step: TrainStep
    feed: Feed
    run: RunFolder
    config: Config
    position: Position
    budget: Budget
    progress: Progress
    stop: StopRequest
    validate: Validate | None
    group: Group
    hooks: Hooks

    def catch_up(self) -> bool:
        """Do what a stopped run left undone at its last step; return whether the run ends here."""
        validation_left = self.validate is not None and validation_is_due(self.budget, self.position)
        if validation_left or recalibration_is_due(self.config, self.budget, self.position):
            return self.pass_step()
        return out_of_patience(self.config, self.position)

    def pass_step(self) -> bool:
        """Recalibrate, validate and save where due; return whether the run ends here."""
        improved, position = False, self.position
        self._recalibrate()
        if self.validate is not None and validation_is_due(self.budget, position) and not self._is_asked_to_stop():
            try:
                with self.group.together():
                    improved = self._run_validation(self.validate)
            except StopRequested:
                _log.info("stopped before the validation at step %d ended; resuming runs it", position.step)
        self._recalibrate()  # the validation may have used up the patience
        # Ask once: a request may come at any time.
        ends = self._is_asked_to_stop() or out_of_patience(self.config, position)
        if improved or ends or self.budget.due(self.budget.save_every, position.step):
            self._save(best=improved)
        return ends

    def _is_asked_to_stop(self) -> bool:
        return self.group.is_asked_to_stop(self.stop)

    def _recalibrate(self) -> None:
        """Measure the norms' statistics again where the run ends; a request to stop leaves it for later."""
        position = self.position
        if not recalibration_is_due(self.config, self.budget, position) or self._is_asked_to_stop():
            return
        started = time.perf_counter()
        steps = range(position.step, position.step + self.budget.steps_per_epoch)
        batches = (batch for i in steps for batch in self.feed.next(i)[0])
        count = recalibrate_norms(self.step, batches, self.group)
        position.recalibrated_step = position.step
        position.seconds += time.perf_counter() - started
        _log.info("measured %d batch norms again, without dropout, on the batches of %d steps", count, len(steps))

    def _save(self, best: bool) -> None:
        if not self.group.writes:
            return
        started, position, config = time.perf_counter(), self.position, self.config
        epoch, done = divmod(position.step, self.budget.steps_per_epoch)
        state = {
            "step": position.step,
            "epoch": epoch,
            "batch": done * config.train.accumulate,
            "position": position.to_json(),
            "config": config.model_dump(mode="json"),
            "data_fingerprint": self.feed.data.fingerprint,
        }
        best = best or self.validate is None  # without validation `best` is the last checkpoint
        self.run.flush_metrics()
        save_checkpoint(self.run.checkpoints, self.step.tensors(), state, best, config.checkpoint.keep)
        position.seconds += time.perf_counter() - started

    def _run_validation(self, validate: Validate) -> bool:
        """Score the weights that an evaluation takes; return whether they are the best so far."""
        started = time.perf_counter()
        model, position, config = self.step.model, self.position, self.config
        average = self.step.average if config.evaluate.weights == "ema" else None
        memory.release_cache()
        model.eval()
        try:
            with nullcontext() if average is None else average.applied(model):
                scores = validate(model)
        finally:
            model.train()
            memory.release_cache()
            position.validation_seconds += time.perf_counter() - started
        score = score_at(scores, config.checkpoint.metric)
        position.validated_step = position.step
        improved = is_better(score, position.best_score, config.checkpoint.mode)
        if improved:
            position.best_score, position.best_step, position.validations_since_best = score, position.step, 0
        else:
            position.validations_since_best += 1
        self.progress.validated(scores)
        found = "undefined" if score is None else f"{score:.4f}"
        if improved:
            found += ", the best so far"
        elif position.best_score is not None:
            found += f" (best {position.best_score:.4f} at step {position.best_step})"
        _log.info("validation at step %d: %s %s", position.step, config.checkpoint.metric, found)
        self.hooks.on_validation(position.step, model, scores)
        return improved


def score_at(scores: Mapping[str, float], metric: str) -> float | None:
    """Return the score named `metric`, None where it is not finite; raise ValueError where there is none."""
    if metric not in scores:
        raise ValueError(f"checkpoint.metric={metric}: validation reports {', '.join(scores)}")
    return scores[metric] if math.isfinite(scores[metric]) else None


def is_better(score: float | None, best: float | None, mode: str) -> bool:
    """Return whether a score beats the best so far; an undefined one (None) beats nothing."""
    if score is None or best is None:
        return score is not None
    return score > best if mode == "max" else score < best
