"""The training loop."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.runs.check_resume import check_data_unchanged
from engine.runs.checkpoints import STATE_FILE, CheckpointError, latest_whole
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest
from engine.training.batches import Feed, TrainingData
from engine.training.budget import Budget
from engine.training.milestones import NO_HOOKS, Hooks, Milestones, Validate
from engine.training.progress import Position, Progress
from engine.training.step import Batch, StepResult, TrainStep

_log = logging.getLogger("mlx_volumes")


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names step, cases and last good checkpoint."""


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
    hooks: Hooks = NO_HOOKS,
) -> None:
    """Train from `position`, which is updated, to the end of the budget.

    A step's batches, rates and random numbers depend on the position alone, so that a resumed run equals an
    uninterrupted one. With `train.recalibrate_norms` the statistics of batch norms are measured again at the end, on
    the epoch of batches that would come next.

    stop       a request ends the run after the step, with a checkpoint; it may also raise StopRequested within
               `validate`, and the validation then happens on resuming
    validate   scores the model, in evaluation mode; the best checkpoint has the best `checkpoint.metric`
    name_case  returns the name of the case with a batch's `index`
    group      all processes call this, each with its share of the data; rank 0 saves, and all end together
    hooks      functions of your own: see `Hooks`

    Raises NonFiniteError for a loss that is NaN or infinite, before that step is saved, and OSError where a
    checkpoint cannot be written.
    """
    budget = Budget.of(config, data.batches_per_epoch)
    feed = Feed(data, budget.steps_per_epoch, config.train.accumulate, group)
    progress = Progress(run, position, budget.total_steps, budget.steps_per_epoch)
    milestones = Milestones(step, feed, run, config, position, budget, progress, stop, validate, group, hooks)
    step.model.train()
    with group.watchdog(config.distributed.timeout_seconds), progress, closing(feed):
        ended = milestones.catch_up()
        while not ended and position.step < budget.total_steps:
            started = time.perf_counter()
            batches, waited = feed.next(position.step)  # train.accumulate of x (N, D, H, W, C) with y
            result = step(batches)  # forward, loss, backward, clip, update
            position.step += 1
            require_finite(result, batches, position.step, run, name_case, group)
            samples = group.size * sum(len(batch["x"]) for batch in batches)
            seconds = time.perf_counter() - started
            progress.stepped(result, samples, seconds, waited, budget.due(budget.log_every, position.step))
            hooks.on_step(position.step, step.model, result)
            ended = milestones.pass_step()  # recalibrate, validate, save
    report_end(budget, position, stop, group.writes)
    hooks.on_end(position.step, step.model)


def restore(step: TrainStep, data: TrainingData, run: RunFolder, group: Group = ALONE) -> Position:
    """Load the run's latest whole checkpoint, if there is one; return its position, or that of a new run.

    In a group rank 0 reads it and sends it to the others, whatever their number.

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
    try:
        position = Position.from_json(state.get("position"))
    except ValueError as error:
        raise CheckpointError(f"{checkpoint / STATE_FILE}: position: {error}; remove {checkpoint}") from None
    step.load(checkpoint)
    run.trim_metrics(position.step, position.validated_step)
    _log.info("resumed from %s", checkpoint)
    return position


def require_finite(
    result: StepResult,
    batches: Sequence[Batch],
    step: int,
    run: RunFolder,
    name_case: Callable[[int], str],
    group: Group = ALONE,
) -> None:
    """Raise NonFiniteError unless loss and gradient, which are the same in all processes, are finite."""
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
        + "Check these cases, lower optim.learning_rate, or set optim.clip_norm"
    )


def report_end(budget: Budget, position: Position, stop: StopRequest, writes: bool) -> None:
    """Log how the run ended and how long its parts took, and remove a file STOP."""
    if position.step >= budget.total_steps:
        _log.info("finished: %d steps", position.step)
    elif stop.requested:
        _log.info("stopped by %s at step %d, saved; continue with --resume", stop.reason, position.step)
    else:
        waited = position.validations_since_best
        _log.info("stopped early at step %d: %d validations without a better score", position.step, waited)
    if position.seconds > 0:
        _log.info(
            "trained for %.0f s, of which %.1f %% waiting for data; validated for %.0f s",
            position.seconds,
            100 * position.waiting_seconds / position.seconds,
            position.validation_seconds,
        )
    if writes:
        stop.stop_file.unlink(missing_ok=True)
