"""A dry run: two real steps, and an estimate of what the whole run takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from engine.runs.environment import peak_memory_gb
from engine.training.budget import Budget
from engine.training.step import Batch, StepResult, TrainStep
from ops import backend, memory


@dataclass(frozen=True)
class Rehearsal:
    """Loss, time and memory of a step."""

    result: StepResult
    first_seconds: float  # including the compilation of kernels
    seconds: float
    peak_memory_gb: float
    device: str
    memory_limit: str


def rehearse(step: TrainStep, batches: Sequence[Batch]) -> Rehearsal:
    """Run one step, and a second one to time it; this trains the model, and writes nothing."""
    step.model.train()
    started = time.perf_counter()
    result = step(batches)
    first = time.perf_counter() - started
    started = time.perf_counter()
    step(batches)
    seconds = time.perf_counter() - started
    device = f"{mx.device_info().get('device_name') or 'unknown'}, operators: {backend.active()}"
    return Rehearsal(result, first, seconds, peak_memory_gb(), device, memory.describe_limit())


def format_rehearsal(rehearsal: Rehearsal, budget: Budget) -> str:
    """Return lines with loss, memory and time; the times leave out validation and waiting for data."""
    epoch = budget.steps_per_epoch * rehearsal.seconds
    result = rehearsal.result
    return "\n".join(
        [
            f"loss        {result.loss:.4f} at the first step, gradient norm {result.grad_norm:.3g}",
            f"device      {rehearsal.device}",
            f"memory      {rehearsal.peak_memory_gb:.2f} GB at most; limit {rehearsal.memory_limit}",
            f"step        {rehearsal.seconds:.2f} s (the first {rehearsal.first_seconds:.1f} s)",
            f"epoch       {budget.steps_per_epoch} steps, about {format_seconds(epoch)}",
            f"run         {budget.total_steps} steps, about {format_seconds(budget.total_steps * rehearsal.seconds)}",
        ]
    )


def format_seconds(seconds: float) -> str:
    """Return 42 s, 12 min or 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
