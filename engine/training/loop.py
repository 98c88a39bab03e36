"""The training loop."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import mlx.nn as nn

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.runs.check_resume import check_data_unchanged
from engine.runs.checkpoints import latest_whole, save_checkpoint
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.batches import Feed, TrainingData
from engine.training.progress import Position, Progress
from engine.training.recalibrate import recalibrate_norms
from engine.training.step import Batch, StepResult, TrainStep
from ops import memory

_log = logging.getLogger("mlx_volumes")

Validate = Callable[[nn.Module], Mapping[str, float]]  # model in evaluation mode -> {"dice.mean": ...}


class NonFiniteError(RuntimeError):
    """A loss or gradient that is NaN or infinite; what it names: step, cases, last good checkpoint."""


@dataclass(frozen=True)
class Plan:
    """A run's numbers, in optimiser steps."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    validate_every: int
    save_every: int

    @classmethod
    def of(cls, config: Config, batches_per_epoch: int) -> Self:
        """Raises ValueError where an epoch has fewer batches than one step accumulates."""
        train = config.train
        steps_per_epoch = batches_per_epoch // train.accumulate
        if steps_per_epoch == 0:
            raise ValueError(
                f"train.accumulate={train.accumulate} is more than the {batches_per_epoch} batches of an epoch; "
                "use less of it, or a smaller train.batch_size"
            )
        total = train.steps or steps_per_epoch * (train.epochs or 0)
        validate_every = train.validate_every_steps or max(1, math.ceil(total / 10))
        save_every = config.checkpoint.every_steps or validate_every
        return cls(total, steps_per_epoch, train.log_every_steps, validate_every, save_every)

    def due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps is done after this one: the last step is always due."""
        return step > 0 and (step % every == 0 or step == self.total_steps)


def fit(
    step: TrainStep,
    data: TrainingData,
    run: RunFolder,
    config: Config,
    position: Position,
    stop: StopRequest,
    validate: Validate | None = None,
    name_case: Callable[[int], str] = str,
    group: Group = ALONE,
) -> None:
    """Train from `position`, which moves along, to the end of the budget.

    Each step's batches, rates and random numbers follow from the position alone, so that a run that was stopped
    or killed and resumed equals an uninterrupted one. With `train.recalibrate_norms` batch norms take their statistics
    anew at the end, on the epoch of batches that would come next. `validate` scores the model, in evaluation mode; the
    best checkpoint is that of `checkpoint.metric`. A request to `stop` ends the run after the step, with a
    checkpoint; it may also raise StopRequested within `validate`, which then is made up for on resuming.
    `name_case` names the case of a batch's `index`. In a `group` all processes call this alike, each with its
    share of the data: rank 0 saves, and all end together.

    Raises NonFiniteError for a loss that is NaN or infinite (no checkpoint is written of it), OSError where a
    checkpoint can't be written.
    """
    plan = Plan.of(config, data.batches_per_epoch)
    feed = Feed(data, plan.steps_per_epoch, config.train.accumulate)

    def save(best: bool = False) -> None:
        if not group.writes:
            return
        started = time.perf_counter()
        epoch, done = divmod(position.step, plan.steps_per_epoch)
        state = {
            "step": position.step,
            "epoch": epoch,
            "batch": done * config.train.accumulate,
            "position": position.to_json(),
            "config": config.model_dump(mode="json"),
            "data_fingerprint": data.fingerprint,
        }
        # Without a validation there is no best, and evaluation finds the last one under that name.
        best = best or validate is None
        save_checkpoint(run.checkpoints, step.tensors(), state, best, config.checkpoint.keep)
        position.seconds += time.perf_counter() - started

    def recalibrate() -> None:
        """Take the norms' statistics anew where the run ends; a request to stop leaves it for later."""
        if not recalibration_is_due(config, plan, position) or group.is_asked_to_stop(stop):
            return
        started = time.perf_counter()
        steps = range(position.step, position.step + plan.steps_per_epoch)
        count = recalibrate_norms(step, (batch for i in steps for batch in next_batches(i)[0]), group)
        position.recalibrated_step = position.step
        position.seconds += time.perf_counter() - started
        _log.info("took the statistics of %d batch norms anew, dropout off, over %d steps' batches", count, len(steps))

    def next_batches(number: int) -> tuple[list[Batch], float]:
        with group.together():
            return feed.next(number)

    def finish_step() -> bool:
        """Recalibrate, validate and save where due; return whether the run ends here."""
        improved = False
        recalibrate()
        if validate is not None and validation_is_due(plan, position) and not group.is_asked_to_stop(stop):
            try:
                with group.together():
                    improved = run_validation(step, validate, position, progress, config)
            except StopRequested:
                _log.info("the validation at step %d is left for later", position.step)
        recalibrate()  # patience may have ended
        # asked once: a request may come at any time
        ends = group.is_asked_to_stop(stop) or out_of_patience(config, position)
        if improved or ends or plan.due(plan.save_every, position.step):
            save(best=improved)
        return ends

    step.model.train()
    progress = Progress(run, position, plan.total_steps, plan.steps_per_epoch)
    with group.watchdog(config.distributed.timeout_seconds), progress, feed:
        ended = out_of_patience(config, position)
        validation_left = validate is not None and validation_is_due(plan, position)
        if validation_left or recalibration_is_due(config, plan, position):
            ended = finish_step()  # the run was stopped before that
        while not ended and position.step < plan.total_steps:
            started = time.perf_counter()
            batches, waited = next_batches(position.step)
            group.seed_step(config.seed, position.step)
            with group.waiting(f"the other processes' gradients in step {position.step + 1}"):
                result = step(batches)
            position.step += 1
            require_finite(result, batches, position.step, run, name_case, group)
            samples = group.size * sum(len(batch["x"]) for batch in batches)
            seconds = time.perf_counter() - started
            progress.stepped(result, samples, seconds, waited, plan.due(plan.log_every, position.step))
            ended = finish_step()
    report_end(plan, position, stop, group.writes)


def restore(step: TrainStep, data: TrainingData, run: RunFolder, group: Group = ALONE) -> Position:
    """Put the run's latest whole checkpoint, if any, into the step; return its position, or a new run's.

    In a group rank 0 reads it and gives it to the others, however many they are.

    Raises ValueError where the data changed, or the checkpoint doesn't fit the model.
    """
    position = _read_last(step, data, run) if group.rank == 0 else Position()
    if group.size > 1:
        position = Position.from_json(group.share_json(position.to_json()))
        step.synchronise()
    return position


def _read_last(step: TrainStep, data: TrainingData, run: RunFolder) -> Position:
    found = latest_whole(run.checkpoints)
    if found is None:
        run.trim_metrics(0, 0)
        return Position()
    checkpoint, state = found
    check_data_unchanged(run, state, data.fingerprint)
    step.load(checkpoint)
    position = Position.from_json(state["position"])
    run.trim_metrics(position.step, position.validated_step)
    _log.info("resumed from %s", checkpoint)
    return position


def validation_is_due(plan: Plan, position: Position) -> bool:
    return plan.due(plan.validate_every, position.step) and position.validated_step < position.step


def recalibration_is_due(config: Config, plan: Plan, position: Position) -> bool:
    at_end = position.step >= plan.total_steps or out_of_patience(config, position)
    return config.train.recalibrate_norms and at_end and position.recalibrated_step < position.step


def out_of_patience(config: Config, position: Position) -> bool:
    patience = config.train.early_stop_validations
    return patience is not None and position.validations_since_best >= patience


def run_validation(
    step: TrainStep,
    validate: Validate,
    position: Position,
    progress: Progress,
    config: Config,
) -> bool:
    """Score the weights that evaluation would take; return whether they are the best so far."""
    started = time.perf_counter()
    model, average = step.model, step.average
    use_average = average is not None and config.evaluate.weights == "ema"
    memory.release_cache()
    model.eval()
    try:
        with average.applied(model) if average is not None and use_average else nullcontext():
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
    progress.validated(scores)
    _log.info(
        "validation at step %d: %s %s%s",
        position.step,
        config.checkpoint.metric,
        "undefined" if score is None else f"{score:.4f}",
        ", the best so far" if improved else best_so_far(position),
    )
    return improved


def best_so_far(position: Position) -> str:
    score = position.best_score
    return "" if score is None else f" (best {score:.4f} at step {position.best_step})"


def score_at(scores: Mapping[str, float], metric: str) -> float | None:
    """The score that decides, None where it is not a number; raises ValueError where there is none of that name."""
    if metric not in scores:
        raise ValueError(f"checkpoint.metric={metric}: validation reports {', '.join(scores)}")
    return scores[metric] if math.isfinite(scores[metric]) else None


def is_better(score: float | None, best: float | None, mode: str) -> bool:
    """Whether a score beats the best so far; one that is undefined beats nothing."""
    if score is None or best is None:
        return score is not None
    return score > best if mode == "max" else score < best


def require_finite(
    result: StepResult,
    batches: Sequence[Batch],
    step: int,
    run: RunFolder,
    name_case: Callable[[int], str],
    group: Group = ALONE,
) -> None:
    """Raise NonFiniteError unless loss and gradient, which are the same in all processes, are numbers."""
    if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
        return
    names = ", ".join(name_case(int(i)) for batch in batches for i in batch.get("index", ()))
    if group.size > 1:
        names = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(group.gather_texts(names)))
    last = run.checkpoints / "last"
    raise NonFiniteError(
        f"step {step}: loss {result.loss} ({', '.join(f'{k} {v}' for k, v in result.parts.items())}), "
        f"gradient norm {result.grad_norm}; cases: {names or 'unknown'}. "
        + (f"The last good checkpoint is {last.resolve()}. " if last.exists() else "No checkpoint was written yet. ")
        + "Look at these cases, lower optim.learning_rate, or set optim.clip_norm"
    )


def report_end(plan: Plan, position: Position, stop: StopRequest, writes: bool) -> None:
    """Log how the run ended and where its time went; a file STOP has been obeyed and goes."""
    if position.step >= plan.total_steps:
        _log.info("finished: %d steps", position.step)
    elif stop.requested:
        _log.info("stopped by %s at step %d, saved; continue with --resume", stop.reason, position.step)
    else:
        _log.info(
            "stopped early at step %d: %d validations without a better score",
            position.step,
            position.validations_since_best,
        )
    if position.seconds > 0:
        _log.info(
            "trained for %.0f s, of which %.1f %% waiting for data; validated for %.0f s",
            position.seconds,
            100 * position.waiting_seconds / position.seconds,
            position.validation_seconds,
        )
    if writes:
        stop.stop_file.unlink(missing_ok=True)
