"""Prediction and scoring of whole cases, and the quick form of it that training validates with."""

import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed import ALONE, Group
from engine.metrics import ClassScore, dice_per_class, measure_volumes, score_case
from engine.slices import Slices, cut_slices
from engine.sliding_window import Predict, predict_labels, predict_probabilities
from engine.statistics import nan_mean
from engine.step import compute_dtype
from ops import backend

_log = logging.getLogger("mlx_volumes")

# What reading a bad file, or a file that doesn't fit the run, raises; other errors are ours and end the program.
CASE_ERRORS = (ValueError, OSError, EOFError, zlib.error)


class CaseData(Protocol):
    """What evaluation asks of the data: cases are handed back to it as they came."""

    def load(self, case: Any, /) -> Any:
        """The prepared case: .volume (D, H, W, C), .label or None, .grid, .source_grid."""

    def restore(self, prepared: Any, probabilities: np.ndarray, /) -> np.ndarray:
        """Labels on the source file's grid from probabilities (D, H, W, K) on the prepared one."""

    def read_label(self, case: Any, /) -> tuple[np.ndarray, tuple[float, float, float]]:
        """The untouched label (D, H, W) in RAS+, and its spacing in mm."""


Save = Callable[[Any, Any, np.ndarray, np.ndarray | None], None]  # case, prepared, labels, probabilities


@dataclass(frozen=True)
class CaseResult:
    """One predicted case."""

    id: str
    scores: list[ClassScore]  # of the classes 1 to K - 1
    labelled: bool
    slices: Slices
    seconds: float  # of prediction, without reading and scoring


@dataclass(frozen=True)
class Failure:
    """A case that could not be evaluated."""

    case: str
    file: str
    reason: str


def evaluate_cases(
    predict: Predict, data: CaseData, cases: Sequence[Any], config: Config, num_classes: int, save: Save | None = None
) -> tuple[list[CaseResult], list[Failure]]:
    """Predict every case on its source file's grid and score it against its untouched label file.

    Probabilities are resampled to that grid, then the largest wins. `save` gets each case's labels, and the
    prepared grid's probabilities (D, H, W, K) where `evaluate.save_probabilities` asks for them. A case whose
    files are at fault is reported as a failure, and the others go on.
    """
    results, failures = [], []
    for number, case in enumerate(cases, 1):
        try:
            result = _evaluate_case(predict, data, case, config, num_classes, save)
        except CASE_ERRORS as error:
            failure = describe_failure(case, error)
            failures.append(failure)
            _log.error("%d/%d %s FAILED: %s: %s", number, len(cases), failure.case, failure.file, failure.reason)
            continue
        results.append(result)
        score = f"Dice {nan_mean([s.dice for s in result.scores]):.4f}, " if result.labelled else ""
        _log.info("%d/%d %s: %s%.1f s", number, len(cases), result.id, score, result.seconds)
    return results, failures


def _evaluate_case(
    predict: Predict, data: CaseData, case: Any, config: Config, num_classes: int, save: Save | None
) -> CaseResult:
    settings = config.evaluate
    prepared = data.load(case)
    start = time.perf_counter()
    patch_size = settings.window_size_voxels or config.data.patch_size_voxels
    window = (patch_size, settings.overlap, settings.window_batch, settings.mirror_axes)
    probabilities = None
    if _same_grid(prepared) and not settings.save_probabilities:
        labels = next(predict_labels(predict, [prepared.volume], *window))
    else:
        probabilities = predict_probabilities(predict, prepared.volume, *window)
        labels = data.restore(prepared, probabilities)
    seconds = time.perf_counter() - start
    if save is not None:
        save(case, prepared, labels, probabilities)
    spacing_mm = prepared.source_grid.spacing_mm
    del prepared, probabilities  # the metrics need the memory
    if case.label is None:
        scores = measure_volumes(labels, spacing_mm, num_classes)
        return CaseResult(case.id, scores, False, cut_slices(labels, None, spacing_mm), seconds)
    reference, spacing_mm = data.read_label(case)
    slices = cut_slices(labels, reference, spacing_mm)
    tolerance_mm = settings.nsd_tolerance_mm
    scores = score_case(labels, reference, spacing_mm, num_classes, tolerance_mm, config.loss.ignore_label)
    return CaseResult(case.id, scores, True, slices, seconds)


def _same_grid(prepared: Any) -> bool:
    """Whether the network's grid is the file's, so that the argmax needs no resampling."""
    grid, source = prepared.grid, prepared.source_grid
    return grid.shape == source.shape and np.array_equal(grid.affine, source.affine)


def describe_failure(case: Any, error: Exception) -> Failure:
    """What a case's error says, with the file at fault apart."""
    if isinstance(error, OSError) and error.filename:
        return Failure(case.id, str(error.filename), error.strerror or str(error))
    file = str(getattr(error, "path", case.images[0]))
    reason = str(error).removeprefix(f"{file}: ") or type(error).__name__
    return Failure(case.id, file, reason)


def make_validation(
    config: Config, class_names: Sequence[str], data: CaseData, cases: Sequence[Any], group: Group = ALONE
) -> Callable[[nn.Module], dict[str, float]]:
    """Return the validation of a training run: model -> {"dice.mean", "dice.<class>"}, each the mean over cases.

    It takes Dice alone, on the prepared (working) grid, with `evaluate.validation_overlap`, no mirroring, and
    `evaluate.validation_cases` of the cases, evenly spaced. Windows of several cases share a batch. A class that
    is empty in both volumes of a case is left out; one that never occurs is NaN, and left out of the mean.
    The processes of a `group` share the cases, and all return the same.
    """
    chosen = evenly_spaced(cases, config.evaluate.validation_cases)
    patch_size = config.evaluate.window_size_voxels or config.data.patch_size_voxels
    overlap, window_batch = config.evaluate.validation_overlap, config.evaluate.window_batch
    ignore_label, num_classes = config.loss.ignore_label, len(class_names)

    def validate(model: nn.Module) -> dict[str, float]:
        references: deque[np.ndarray] = deque()

        def volumes() -> Iterator[np.ndarray]:
            for case in group.deal(chosen):
                prepared = data.load(case)
                references.append(prepared.label)
                yield prepared.volume

        scores = []
        with evaluating(model):
            predict = make_predict(model, config.train.precision)
            for labels in predict_labels(predict, volumes(), patch_size, overlap, window_batch):
                scores.append(dice_per_class(labels, references.popleft(), num_classes, ignore_label))
        per_class = [nan_mean(values) for values in np.array(group.undeal(scores)).T]
        named = {f"dice.{name}": value for name, value in zip(class_names[1:], per_class, strict=True)}
        return {"dice.mean": nan_mean(per_class), **named}

    return validate


def evenly_spaced(items: Sequence[Any], count: int | None) -> list[Any]:
    """`count` of the items, the first and the last among them; all where there are no more, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def make_predict(model: nn.Module, precision: str) -> Predict:
    """Return images float32 -> the model's logits, computed in `train.precision`.

    Where this machine has no bfloat16, a run trained in it is evaluated in float32, with a warning.
    """
    if precision == "bfloat16" and not backend.supports_bfloat16():
        _log.warning("train.precision=bfloat16: this machine has no bfloat16 arithmetic; evaluating in float32")
        precision = "float32"
    dtype = compute_dtype(precision)

    def predict(x: mx.array) -> mx.array:
        return model(x.astype(dtype))

    return predict


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context the model drops nothing and leaves its running statistics alone."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
