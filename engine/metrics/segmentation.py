"""What a predicted label volume is worth, class by class, against its reference."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from engine.metrics.surface import border, border_distances_mm, surface_elements

SURFACE_DEFINITION = "hd95_mm and nsd weigh areas of surface (Nikolov et al. 2021); *_voxels count voxels (MONAI)"
"""Stands in metrics.json: evaluations before it counted voxels under the names hd95_mm and nsd."""


@dataclass(frozen=True)
class Regions:
    """One class of one case: where it is predicted, and where the reference has it; at least one is not empty."""

    prediction: np.ndarray  # (d, h, w) bool
    reference: np.ndarray
    spacing_mm: tuple[float, float, float]
    tolerance_mm: float  # of NSD

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000

    @cached_property
    def num_predicted(self) -> int:
        return int(self.prediction.sum())

    @cached_property
    def num_expected(self) -> int:
        return int(self.reference.sum())

    @cached_property
    def num_common(self) -> int:
        return int((self.prediction & self.reference).sum())

    @cached_property
    def surfaces(self) -> "Surfaces":
        """Of both, their elements weighed by their areas."""
        (ours, our_areas), (theirs, their_areas) = (
            surface_elements(region, self.spacing_mm) for region in (self.prediction, self.reference)
        )
        return Surfaces(*border_distances_mm(ours, theirs, self.spacing_mm), our_areas, their_areas)

    @cached_property
    def borders(self) -> "Surfaces":
        """Of both, their border voxels counted."""
        there, back = border_distances_mm(border(self.prediction), border(self.reference), self.spacing_mm)
        return Surfaces(there, back, np.ones(there.size), np.ones(back.size))


class Surfaces(NamedTuple):
    """The elements of two surfaces: how far each is from the other surface in mm, and its weight."""

    there: np.ndarray  # distances (n,) of the prediction's
    back: np.ndarray  # (m,) of the reference's
    our_weights: np.ndarray  # (n,)
    their_weights: np.ndarray  # (m,)


def dice(regions: Regions) -> float:
    return 2 * regions.num_common / (regions.num_predicted + regions.num_expected)


def iou(regions: Regions) -> float:
    return regions.num_common / (regions.num_predicted + regions.num_expected - regions.num_common)


def hd95_mm(regions: Regions) -> float:
    there, back, our_areas, their_areas = regions.surfaces
    return max(_percentile_95(there, our_areas), _percentile_95(back, their_areas))


def nsd(regions: Regions) -> float:
    return _share_within(regions.surfaces, regions.tolerance_mm)


def hd95_voxels_mm(regions: Regions) -> float:
    there, back, *_ = regions.borders
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def nsd_voxels(regions: Regions) -> float:
    return _share_within(regions.borders, regions.tolerance_mm)


def volume_error_ml(regions: Regions) -> float:
    """Predicted less reference: negative where too little is found."""
    return (regions.num_predicted - regions.num_expected) * regions.voxel_ml


class Metric(NamedTuple):
    """A score of one class of one case; of a class that is empty in both volumes it is NaN."""

    measure: Callable[[Regions], float]
    bounds: tuple[float, float]  # what values, and with them intervals, lie between
    missed: float | None = None  # the value where the class is empty in one of the two; None: it is measured
    title: str = ""  # of the report's column; none: in metrics.json and cases.csv alone
    digits: int = 3  # in the report


_SHARE, _LENGTH = (0.0, 1.0), (0.0, np.inf)
METRICS = {  # by their names in metrics.json and cases.csv
    "dice": Metric(dice, _SHARE, missed=0.0, title="Dice"),
    "iou": Metric(iou, _SHARE, missed=0.0, title="IoU"),
    "hd95_mm": Metric(hd95_mm, _LENGTH, missed=np.inf, title="HD95 (mm)", digits=2),
    "nsd": Metric(nsd, _SHARE, missed=0.0, title="NSD"),
    "hd95_voxels_mm": Metric(hd95_voxels_mm, _LENGTH, missed=np.inf),
    "nsd_voxels": Metric(nsd_voxels, _SHARE, missed=0.0),
    "volume_error_ml": Metric(volume_error_ml, (-np.inf, np.inf), title="Volume error (ml)"),
}


@dataclass(frozen=True)
class ClassScore:
    """One class of one case: score["dice"] is one of METRICS, NaN where the class is empty in both volumes."""

    values: tuple[float, ...]  # of METRICS, in their order
    volume_ml: float  # predicted
    reference_volume_ml: float
    empty: str  # "", "both", "prediction" or "reference"

    def __getitem__(self, metric: str) -> float:
        return dict(zip(METRICS, self.values, strict=True))[metric]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float, float],
    num_classes: int,
    tolerance_mm: float = 1.0,
    ignore_label: int | None = None,
) -> list[ClassScore]:
    """Scores of the classes 1 to num_classes - 1, in that order; 0 is the background.

    Both volumes are (D, H, W) integers on one grid. HD95 is the larger of the two directed 95th percentiles of
    the distances between surfaces; NSD (normalised surface Dice) is the share of both surfaces together within
    `tolerance_mm` of the other. `hd95_mm` and `nsd` weigh the surface's elements by their areas (Nikolov et al. 2021,
    arXiv:1809.04430, as DeepMind's surface-distance); `hd95_voxels_mm` and `nsd_voxels` count border voxels, as MONAI
    does, in which slanting surfaces weigh less, and gaps are a voxel wider. Voxels whose reference is `ignore_label`
    belong to no class. Raises ValueError where the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction and reference must have one shape; got {prediction.shape} and {reference.shape}")
    if ignore_label is not None:
        ignored = reference == ignore_label
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    boxes, reference_boxes = _boxes(prediction, num_classes), _boxes(reference, num_classes)
    scores = []
    for value in range(1, num_classes):
        box = _union(boxes[value - 1], reference_boxes[value - 1])
        if box is None:
            scores.append(ClassScore(_no_values(), 0.0, 0.0, empty="both"))
        else:
            regions = Regions(prediction[box] == value, reference[box] == value, spacing_mm, tolerance_mm)
            scores.append(_score_class(regions))
    return scores


def _score_class(regions: Regions) -> ClassScore:
    empty = "prediction" if not regions.num_predicted else "reference" if not regions.num_expected else ""
    return ClassScore(
        tuple(m.missed if empty and m.missed is not None else m.measure(regions) for m in METRICS.values()),
        volume_ml=regions.num_predicted * regions.voxel_ml,
        reference_volume_ml=regions.num_expected * regions.voxel_ml,
        empty=empty,
    )


def _no_values() -> tuple[float, ...]:
    return (np.nan,) * len(METRICS)


def _percentile_95(distances: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(distances)
    summed = np.cumsum(weights[order])
    place = int(np.searchsorted(summed / summed[-1], 0.95))
    return float(distances[order[min(place, len(order) - 1)]])


def _share_within(surfaces: Surfaces, tolerance_mm: float) -> float:
    there, back, our_weights, their_weights = surfaces
    # In float32, so that a distance of exactly the tolerance is within it: 3 * 0.1 > 0.3 in float64.
    limit = np.float32(tolerance_mm)
    within = our_weights[there <= limit].sum() + their_weights[back <= limit].sum()
    return float(within / (our_weights.sum() + their_weights.sum()))


def measure_volumes(
    prediction: np.ndarray, spacing_mm: tuple[float, float, float], num_classes: int
) -> list[ClassScore]:
    """Return the predicted volumes of the classes 1 to num_classes - 1 of a case without reference; all else is NaN."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    counts = _count(prediction, num_classes)[1:]
    return [ClassScore(_no_values(), count * voxel_ml, np.nan, empty="") for count in counts.tolist()]


def dice_per_class(
    prediction: np.ndarray, reference: np.ndarray, num_classes: int, ignore_label: int | None = None
) -> np.ndarray:
    """Dice of the classes 1 to num_classes - 1, float64 (num_classes - 1,); NaN where empty in both."""
    if ignore_label is not None:
        ignored = reference == ignore_label
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    matched = _count(np.where(prediction == reference, reference, 0), num_classes)
    total = _count(prediction, num_classes) + _count(reference, num_classes)
    with np.errstate(invalid="ignore"):
        return (2 * matched / total)[1:]


def _count(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Voxels of each class, (num_classes,), a plane at a time: bincount makes a copy in int64."""
    counts = np.zeros(num_classes, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=num_classes)[:num_classes]
    return counts


Box = tuple[slice, ...]


def _boxes(labels: np.ndarray, num_classes: int) -> list[Box | None]:
    """Bounding boxes of the classes 1 to num_classes - 1; None for one that is absent."""
    found = find_objects(labels, max_label=num_classes - 1)
    return found + [None] * (num_classes - 1 - len(found))


def _union(first: Box | None, second: Box | None) -> Box | None:
    if first is None or second is None:
        return first or second
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
