"""What evaluation does of every task: the loop over cases, with those that fail, and the validation in training."""

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed.group import Group
from engine.evaluation.sliding_window import Predict
from engine.training.step import compute_dtype
from machine import disk
from ops import memory

_log = logging.getLogger("mlx_volumes")

T = TypeVar("T")

# What reading a bad file, or a file that doesn't fit the run, raises; other errors are ours and end the program.
CASE_ERRORS = (ValueError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Failure:
    """A case that could not be evaluated."""

    case: str
    file: str
    reason: str


def describe_failure(case: Any, error: Exception) -> Failure:
    """Return what a case's error says, with the file at fault apart."""
    if isinstance(error, OSError) and error.filename:
        return Failure(case.id, str(error.filename), error.strerror or str(error))
    file = str(getattr(error, "path", case.images[0]))
    reason = str(error).removeprefix(f"{file}: ") or type(error).__name__
    return Failure(case.id, file, reason)


def attempt(
    cases: Sequence[Any], evaluate: Callable[[Any], T], failures: list[Failure], is_numbered: bool = False
) -> Iterator[tuple[int, T]]:
    """Yield each case's number, from 1, and what `evaluate` returns for it.

    A case whose files are at fault joins the failures instead, and the others go on. is_numbered: the log says its
    number too.
    """
    for number, case in enumerate(cases, 1):
        try:
            found = evaluate(case)
        except disk.CannotWrite:
            raise  # an output's fault, not the case's
        except CASE_ERRORS as error:
            failure = describe_failure(case, error)
            failures.append(failure)
            place = f"{number}/{len(cases)} " if is_numbered else ""
            _log.error("%s%s FAILED: %s: %s", place, failure.case, failure.file, failure.reason)
        else:
            yield number, found


def make_validator(
    config: Config,
    data: Any,
    cases: Sequence[Any],
    group: Group,
    score: Callable[[Predict, Iterable[Any]], Sequence[np.ndarray]],
    summarise: Callable[[np.ndarray], dict[str, float]],
) -> Callable[[nn.Module], dict[str, float]]:
    """Return the validation of a training run: model -> scores by name.

    It takes `evaluate.validation_cases` of the cases, evenly spaced; the processes of a `group` share them, and all
    return the same. score: network and prepared cases -> a row of numbers for each, which `summarise` is given of all.
    """
    chosen = evenly_spaced(cases, config.evaluate.validation_cases)

    def validate(model: nn.Module) -> dict[str, float]:
        with evaluating(model):
            predict = make_predict(model, config.train.precision, config.train.compile)
            rows = score(predict, map(data.load, group.deal(chosen)))
        return summarise(np.array(group.undeal(rows)))

    return validate


def evenly_spaced(items: Sequence[Any], count: int | None) -> list[Any]:
    """`count` of the items, the first and the last among them; all where there are no more, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def make_predict(model: nn.Module, precision: str, compiled: str = "auto") -> Predict:
    """Return images float32 -> the model's logits, computed in `train.precision`; the model is in evaluation mode.

    compiled: `train.compile`. On a GPU prediction is compiled unless it says never, as a trace of its own, apart from
    the training step's. It reads weights and held dropout masks anew at each call; all else must stay as it is.
    """
    dtype = compute_dtype(precision)

    def predict(x: mx.array) -> mx.array:
        return model(x.astype(dtype))

    if compiled == "never" or not memory.on_gpu():
        return predict
    state = [model.state, mx.random.state]
    return mx.compile(predict, inputs=state, outputs=[mx.random.state])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context the model drops nothing and leaves its running statistics alone."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
