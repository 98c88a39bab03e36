"""Prediction and scoring of whole cases, and the quick form of it that training validates with."""

import logging
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.evaluation.members import Member, predict_together, window_settings
from engine.evaluation.sliding_window import (
    Predict,
    most_probable,
    predict_labels,
    predict_probabilities,
    predict_slabs,
)
from engine.evaluation.temperature import scale
from engine.evaluation.voxels import VoxelCounter, VoxelFacts
from engine.metrics.means import nan_mean
from engine.metrics.segmentation import ClassScore, dice_per_class, measure_volumes, score_case
from engine.metrics.uncertainty import MEASURES
from engine.reports.slices import PackedPlane, Slices, cut_slices
from engine.training.step import compute_dtype
from ops import memory

_log = logging.getLogger("mlx_volumes")

# What reading a bad file, or a file that doesn't fit the run, raises; other errors are ours and end the program.
CASE_ERRORS = (ValueError, OSError, EOFError, zlib.error)


class CaseData(Protocol):
    """What evaluation asks of the data: cases are handed back to it as they came."""

    def load(self, case: Any, /) -> Any:
        """The prepared case: .volume (D, H, W, C), .label or None, .grid, .source_grid."""

    def restore(self, prepared: Any, probabilities: np.ndarray, /) -> np.ndarray:
        """Labels on the source file's grid from probabilities (D, H, W, K) on the prepared one."""

    def restore_slabs(self, prepared: Any, probabilities: np.ndarray, /) -> Iterator[tuple[int, np.ndarray]]:
        """Probabilities on the source file's grid, in slabs from plane 0 on: (first plane, (d, H, W, K))."""

    def restore_maps(self, prepared: Any, maps: np.ndarray, /) -> np.ndarray:
        """Maps (D, H, W, M) of the prepared grid on the source file's."""

    def read_label(self, case: Any, /) -> tuple[np.ndarray, tuple[float, float, float]]:
        """The untouched label (D, H, W) in RAS+, and its spacing in mm."""


# case, prepared, labels, and further volumes by name, all on the source file's grid
Save = Callable[[Any, Any, np.ndarray, Mapping[str, np.ndarray]], None]


@dataclass(frozen=True)
class CaseResult:
    """One predicted case."""

    id: str
    scores: list[ClassScore]  # of the classes 1 to K - 1
    labelled: bool
    slices: Slices
    seconds: float  # of prediction, without reading and scoring
    voxels: VoxelFacts | None = None  # of labelled cases: their calibration and uncertainty
    plane: PackedPlane | None = None  # of several members: MEASURES in the first of the slices
    group: str | None = None


@dataclass(frozen=True)
class Failure:
    """A case that could not be evaluated."""

    case: str
    file: str
    reason: str


def evaluate_cases(
    members: Sequence[Member],
    data: CaseData,
    cases: Sequence[Any],
    config: Config,
    num_classes: int,
    save: Save | None = None,
    temperature: float = 1.0,
) -> tuple[list[CaseResult], list[Failure]]:
    """Predict every case on its source file's grid and score it against its untouched label file.

    Probabilities, of several members their mean, are resampled to that grid, then the largest wins. `save` gets
    each case's labels; the probabilities (D, H, W, K) at the temperature, where `evaluate.save_probabilities` asks
    for them; and of several members the maps of `MEASURES`. A case whose files are at fault is reported as a
    failure, and the others go on.
    """
    results, failures = [], []
    for number, case in enumerate(cases, 1):
        try:
            result = _evaluate_case(members, data, case, config, num_classes, save, temperature)
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
    members: Sequence[Member],
    data: CaseData,
    case: Any,
    config: Config,
    num_classes: int,
    save: Save | None,
    temperature: float,
) -> CaseResult:
    settings, ignore_label = config.evaluate, config.loss.ignore_label
    prepared = data.load(case)
    spacing_mm, reference, counter = prepared.source_grid.spacing_mm, None, None
    if case.label is not None:
        reference, spacing_mm = data.read_label(case)
        if settings.calibration:
            counter = VoxelCounter(
                case.id, reference, spacing_mm, num_classes, ignore_label, temperature, seed=settings.seed
            )
    start = time.perf_counter()
    labels, volumes = predict_case(members, data, case, prepared, config, counter, temperature)
    seconds = time.perf_counter() - start
    if save is not None:
        save(case, prepared, labels, volumes)
    slices = cut_slices(labels, reference, spacing_mm)
    plane = None
    if len(members) > 1:
        plane = PackedPlane.pack(np.stack([slices.cut(volumes[name], 0) for name in MEASURES], axis=-1))
    del prepared, volumes  # the metrics need the memory
    if reference is None:
        scores = measure_volumes(labels, spacing_mm, num_classes)
        return CaseResult(case.id, scores, False, slices, seconds, plane=plane, group=case.group)
    scores = score_case(labels, reference, spacing_mm, num_classes, settings.nsd_tolerance_mm, ignore_label)
    voxels = None if counter is None else counter.finish()
    return CaseResult(case.id, scores, True, slices, seconds, voxels, plane, case.group)


def predict_case(
    members: Sequence[Member],
    data: CaseData,
    case: Any,
    prepared: Any,
    config: Config,
    counter: VoxelCounter | None,
    temperature: float,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and further volumes by name, on the source file's grid, whose voxels the counter is shown.

    prepared: the case as `data` prepare it. The volumes are "probabilities", where `evaluate.save_probabilities` asks
    for them, and of several members the maps of `MEASURES`.
    """
    window, wants_probabilities = window_settings(config), config.evaluate.save_probabilities
    if len(members) == 1 and _same_grid(prepared) and not wants_probabilities:
        labels = []  # slab by slab: no volume's probabilities are ever held whole
        for _, first, slab in predict_slabs(members[0].predict, [prepared.volume], *window):
            labels.append(most_probable(slab))
            if counter is not None:
                counter.add(first, slab)
        return np.concatenate(labels), {}
    maps = None
    if len(members) == 1:
        probabilities = predict_probabilities(members[0].predict, prepared.volume, *window)
    else:
        probabilities, maps = predict_together(members, case, prepared, config)
        maps = data.restore_maps(prepared, maps)
    volumes = {} if maps is None else {name: maps[..., m] for m, name in enumerate(MEASURES)}
    if counter is None and not wants_probabilities:
        return data.restore(prepared, probabilities), volumes
    if wants_probabilities:
        volumes["probabilities"] = np.empty((*prepared.source_grid.shape, probabilities.shape[-1]), np.float32)
    labels = []
    for first, slab in data.restore_slabs(prepared, probabilities):
        labels.append(most_probable(slab))
        planes = slice(first, first + len(slab))
        if counter is not None:
            counter.add(first, slab, None if maps is None else maps[planes])
        if wants_probabilities:
            volumes["probabilities"][planes] = scale(slab, temperature)
    return np.concatenate(labels), volumes


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
            predict = make_predict(model, config.train.precision, config.train.compile)
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
