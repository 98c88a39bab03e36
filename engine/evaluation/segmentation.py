"""Label volumes of whole cases, predicted and scored, and the quick form of it that training validates with."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import Any, Protocol

import mlx.nn as nn
import numpy as np

from configs import Config
from engine.distributed.group import ALONE, Group
from engine.evaluation.cases import Failure, attempt, make_validator
from engine.evaluation.labelling import Labelling, activation, labelling_of
from engine.evaluation.members import Member, predict_together, window_settings
from engine.evaluation.sliding_window import (
    Predict,
    Triple,
    predict_labels,
    predict_probabilities,
    predict_slabs,
    require_few_windows,
)
from engine.evaluation.temperature import scale
from engine.evaluation.voxels import VoxelCounter, VoxelFacts
from engine.metrics.arithmetic import nan_mean
from engine.metrics.segmentation import ClassScore, dice_per_class, measure_volumes, score_case
from engine.metrics.uncertainty import MEASURES
from engine.reports.slices import PackedPlane, Slices, cut_slices
from engine.runs.memory_estimate import require_case_fits

_log = logging.getLogger("mlx_volumes")


class CaseData(Protocol):
    """What evaluation asks of the data: cases are handed back to it as they came."""

    class_names: tuple[str, ...]  # of the network's outputs

    @property
    def num_outputs(self) -> int:
        """Classes, the background included, or regions."""

    def shapes(self, case: Any, /) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Those of the case's volume (D, H, W) in its file, and once resampled, by its header."""

    def load(self, case: Any, /) -> Any:
        """Return the prepared case: .volume (D, H, W, C), .label or None, .grid, .source_grid."""

    def restore_slabs(self, prepared: Any, probabilities: np.ndarray, /) -> Iterator[tuple[int, np.ndarray]]:
        """Probabilities of the prepared grid on the source file's, in slabs, in order: (first plane, (d, H, W, K))."""

    def restore_maps(self, prepared: Any, maps: np.ndarray, /) -> np.ndarray:
        """Maps (D, H, W, M) of the prepared grid on the source file's."""

    def read_label(self, case: Any, /) -> tuple[np.ndarray, tuple[float, float, float]]:
        """Return the untouched label (D, H, W) in RAS+, and its spacing in mm."""


# case, prepared, labels, and further volumes by name, all on the source file's grid
Save = Callable[[Any, Any, np.ndarray, Mapping[str, np.ndarray]], None]


@dataclass(frozen=True)
class CaseResult:
    """One predicted case."""

    id: str
    scores: list[ClassScore]  # of the classes 1 to K - 1, or of the regions
    labelled: bool
    slices: Slices
    seconds: float  # of prediction, without reading and scoring
    voxels: VoxelFacts | None = None  # of labelled cases: their calibration and uncertainty
    plane: PackedPlane | None = None  # of several members: MEASURES in the first of the slices
    group: str | None = None


def evaluate_cases(
    members: Sequence[Member],
    data: CaseData,
    cases: Sequence[Any],
    config: Config,
    labelling: Labelling,
    save: Save | None = None,
    temperature: float = 1.0,
) -> tuple[list[CaseResult], list[Failure]]:
    """Predict every case on its source file's grid and score it against its untouched label file.

    Probabilities, of several members their mean, are resampled to that grid, then the largest wins, or, of regions,
    those above 0.5 (see `Labelling.decide`). Regions are scored by the label values in both volumes. `save` gets
    each case's labels; the probabilities (D, H, W, K) at the temperature, where `evaluate.save_probabilities` asks
    for them; and of several members the maps of `MEASURES`. A case whose files are at fault is reported as a
    failure, and the others go on.
    """
    results: list[CaseResult] = []
    failures: list[Failure] = []
    evaluate = partial(_evaluate_case, members, data, config, labelling, save, temperature)
    for number, result in attempt(cases, evaluate, failures, is_numbered=True):
        results.append(result)
        score = f"Dice {nan_mean([s['dice'] for s in result.scores]):.4f}, " if result.labelled else ""
        _log.info("%d/%d %s: %s%.1f s", number, len(cases), result.id, score, result.seconds)
    return results, failures


def _evaluate_case(
    members: Sequence[Member],
    data: CaseData,
    config: Config,
    labelling: Labelling,
    save: Save | None,
    temperature: float,
    case: Any,
) -> CaseResult:
    settings = config.evaluate
    _require_moderate(config, data.shapes(case), data.num_outputs, len(members))
    prepared = data.load(case)
    spacing_mm, reference, counter = prepared.source_grid.spacing_mm, None, None
    if case.label is not None:
        reference, spacing_mm = data.read_label(case)
        if settings.calibration:
            counter = VoxelCounter(case.id, reference, spacing_mm, labelling, temperature, seed=settings.seed)
    start = time.perf_counter()
    labels, volumes = predict_case(members, data, case, prepared, config, labelling, counter, temperature)
    seconds = time.perf_counter() - start
    if save is not None:
        save(case, prepared, labels, volumes)
    slices = cut_slices(labels, reference, spacing_mm)
    plane = None
    if len(members) > 1:
        plane = PackedPlane.pack(np.stack([slices.cut(volumes[name], 0) for name in MEASURES], axis=-1))
    del prepared, volumes  # the metrics need the memory
    num_classes = labelling.classes_a_part
    if reference is None:
        scores = [s for part in labelling.parts(labels) for s in measure_volumes(part, spacing_mm, num_classes)]
        return CaseResult(case.id, scores, False, slices, seconds, plane=plane, group=case.group)
    score = partial(
        score_case,
        spacing_mm=spacing_mm,
        num_classes=num_classes,
        tolerance_mm=settings.nsd_tolerance_mm,
        ignore_label=labelling.ignore_label,
    )
    scores = [s for both in _parts(labelling, labels, reference) for s in score(*both)]
    voxels = None if counter is None else counter.finish()
    return CaseResult(case.id, scores, True, slices, seconds, voxels, plane, case.group)


def predict_case(
    members: Sequence[Member],
    data: CaseData,
    case: Any,
    prepared: Any,
    config: Config,
    labelling: Labelling,
    counter: VoxelCounter | None,
    temperature: float,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and further volumes by name, on the source file's grid, whose voxels the counter is shown.

    prepared: the case as `data` prepare it. The volumes are "probabilities", where `evaluate.save_probabilities` asks
    for them, and of several members the maps of `MEASURES`.
    """
    window, maps, volumes = window_settings(config), None, {}
    slabs: Iterable[tuple[int, np.ndarray]]
    if len(members) > 1:
        probabilities, maps = predict_together(members, case, prepared, config)
        slabs, maps = data.restore_slabs(prepared, probabilities), data.restore_maps(prepared, maps)
        volumes = {name: maps[..., m] for m, name in enumerate(MEASURES)}
    elif _same_grid(prepared):  # no volume's probabilities are ever held whole
        slabs = (found[1:] for found in predict_slabs(members[0].predict, [prepared.volume], *window))
    else:
        slabs = data.restore_slabs(prepared, predict_probabilities(members[0].predict, prepared.volume, *window))
    labels = []
    for first, slab in slabs:
        labels.append(labelling.decide(slab))
        planes = slice(first, first + len(slab))
        if counter is not None:
            counter.add(first, slab, None if maps is None else maps[planes])
        if config.evaluate.save_probabilities:
            if first == 0:
                volumes["probabilities"] = np.empty((*prepared.source_grid.shape, slab.shape[-1]), np.float32)
            volumes["probabilities"][planes] = scale(slab, temperature, labelling.are_regions)
    return np.concatenate(labels), volumes


def predict_one(
    members: Sequence[Member], data: CaseData, case: Any, config: Config, temperature: float, probabilities: bool
) -> np.ndarray:
    """Return a case's labels in the axes and on the grid of its file, or all classes' probabilities (..., K)."""
    settings = config.evaluate.model_copy(update={"save_probabilities": probabilities})
    config = config.model_copy(update={"evaluate": settings})
    _require_moderate(config, data.shapes(case), data.num_outputs, len(members))
    prepared = data.load(case)
    labelling = labelling_of(config, data.class_names)
    labels, volumes = predict_case(members, data, case, prepared, config, labelling, None, temperature)
    found: np.ndarray = prepared.source.in_file_axes(volumes["probabilities"] if probabilities else labels)
    return found


def _parts(labelling: Labelling, labels: np.ndarray, reference: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the parts of both volumes that are scored against each other."""
    return zip(labelling.parts(labels), labelling.parts(reference), strict=True)


def _require_moderate(config: Config, shapes: tuple[Triple, Triple], num_classes: int, num_members: int) -> None:
    """Raise ValueError for a case that takes more memory or windows than there should be, by its header."""
    require_case_fits(config, shapes, num_classes, num_members)
    patch_size, overlap, *_ = window_settings(config)
    if not config.data.crop_nonzero:
        require_few_windows(shapes[1], patch_size, overlap)


def _same_grid(prepared: Any) -> bool:
    """Return whether the network's grid is the file's, so that the argmax needs no resampling."""
    grid, source = prepared.grid, prepared.source_grid
    return grid.shape == source.shape and np.array_equal(grid.affine, source.affine)


def make_validation(
    config: Config, class_names: Sequence[str], data: CaseData, cases: Sequence[Any], group: Group = ALONE
) -> Callable[[nn.Module], dict[str, float]]:
    """Return the validation of a training run: model -> {"dice.mean", "dice.<class>"}, each the mean over cases.

    Of regions these are "dice.<region>".

    It takes Dice alone, on the prepared (working) grid, with `evaluate.validation_overlap`, no mirroring, and
    `evaluate.validation_cases` of the cases, evenly spaced. Windows of several cases share a batch. A class that
    is empty in both volumes of a case is left out; one that never occurs is NaN, and left out of the mean.
    The processes of a `group` share the cases, and all return the same.
    """
    patch_size = config.evaluate.window_size_voxels or config.data.patch_size_voxels
    overlap, window_batch = config.evaluate.validation_overlap, config.evaluate.window_batch
    ignore_label, labelling = config.loss.ignore_label, labelling_of(config, class_names)
    reading = activation(config), labelling.decide

    def score(predict: Predict, prepared: Iterable[Any]) -> list[np.ndarray]:
        prepared, references = tee(prepared)
        volumes = (case.volume for case in prepared)
        found = predict_labels(predict, volumes, patch_size, overlap, window_batch, (), *reading)
        pairs = (_parts(labelling, labels, case.label) for labels, case in zip(found, references, strict=True))
        about = labelling.classes_a_part, ignore_label
        return [np.concatenate([dice_per_class(*both, *about) for both in parts]) for parts in pairs]

    def summarise(scores: np.ndarray) -> dict[str, float]:
        per_class = [nan_mean(values) for values in scores.T]
        named = {f"dice.{name}": value for name, value in zip(labelling.titles[1:], per_class, strict=True)}
        return {"dice.mean": nan_mean(per_class), **named}

    return make_validator(config, data, cases, group, score, summarise)


def validation_metrics(config: Config, class_names: Sequence[str]) -> list[str]:
    """Return the names that the validation reports under, among which `checkpoint.metric` is one."""
    return ["dice.mean", *(f"dice.{name}" for name in labelling_of(config, class_names).titles[1:])]


def check_labels(config: Config, data: Any) -> None:
    """Do nothing: of label volumes the voxels tell, case by case."""
