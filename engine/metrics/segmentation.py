"""What a predicted label volume is worth, class by class, against its reference."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from engine.metrics.surface import border, border_distances_mm, surface_elements

METRICS = ("dice", "iou", "hd95_mm", "nsd", "hd95_voxels_mm", "nsd_voxels", "volume_error_ml")
BOUNDS = {"volume_error_ml": (-np.inf, np.inf)} | dict.fromkeys(("hd95_mm", "hd95_voxels_mm"), (0.0, np.inf))
BOUNDS |= dict.fromkeys(("dice", "iou", "nsd", "nsd_voxels"), (0.0, 1.0))
SURFACE_DEFINITION = "hd95_mm and nsd weigh areas of surface (Nikolov et al. 2021); *_voxels count voxels (MONAI)"
"""Stands in metrics.json: evaluations before it counted voxels under the names hd95_mm and nsd."""


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. Values are NaN where the class is empty in both volumes.

    Where it is empty in one of the two, `dice`, `iou` and NSD are 0 and HD95 is infinite.
    """

    dice: float
    iou: float
    hd95_mm: float  # the next two weigh areas of the surface
    nsd: float
    hd95_voxels_mm: float  # the next two count border voxels
    nsd_voxels: float
    volume_error_ml: float  # predicted less reference: negative where too little is found
    volume_ml: float  # predicted
    reference_volume_ml: float
    empty: str  # "", "both", "prediction" or "reference"


_NO_SCORES = (np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)  # of METRICS


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
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    scores = []
    for value in range(1, num_classes):
        box = _union(boxes[value - 1], reference_boxes[value - 1])
        if box is None:
            scores.append(ClassScore(*_NO_SCORES, 0.0, 0.0, empty="both"))
        else:
            parts = prediction[box], reference[box]
            scores.append(_score_class(*parts, value, spacing_mm, voxel_ml, tolerance_mm))
    return scores


def _score_class(
    prediction: np.ndarray,
    reference: np.ndarray,
    value: int,
    spacing_mm: tuple[float, float, float],
    voxel_ml: float,
    tolerance_mm: float,
) -> ClassScore:
    ours, theirs = prediction == value, reference == value
    predicted, expected = int(ours.sum()), int(theirs.sum())
    both = int((ours & theirs).sum())
    hd95_mm, nsd, hd95_voxels_mm, nsd_voxels = np.inf, 0.0, np.inf, 0.0
    if predicted and expected:
        (our_surface, our_areas), (their_surface, their_areas) = (
            surface_elements(r, spacing_mm) for r in (ours, theirs)
        )
        distances = border_distances_mm(our_surface, their_surface, spacing_mm)
        hd95_mm, nsd = _compare_surfaces(*distances, our_areas, their_areas, tolerance_mm)
        ours, theirs = border(ours), border(theirs)  # under the same names: frees the regions
        there, back = border_distances_mm(ours, theirs, spacing_mm)
        hd95_voxels_mm = float(max(np.percentile(there, 95), np.percentile(back, 95)))
        nsd_voxels = _share_within(there, back, np.ones(there.size), np.ones(back.size), tolerance_mm)
    return ClassScore(
        dice=2 * both / (predicted + expected),
        iou=both / (predicted + expected - both),
        hd95_mm=hd95_mm,
        nsd=nsd,
        hd95_voxels_mm=hd95_voxels_mm,
        nsd_voxels=nsd_voxels,
        volume_error_ml=(predicted - expected) * voxel_ml,
        volume_ml=predicted * voxel_ml,
        reference_volume_ml=expected * voxel_ml,
        empty="prediction" if not predicted else "reference" if not expected else "",
    )


def _compare_surfaces(
    there: np.ndarray, back: np.ndarray, our_areas: np.ndarray, their_areas: np.ndarray, tolerance_mm: float
) -> tuple[float, float]:
    """HD95 and NSD of surfaces: the distances of their elements, and their areas."""

    def percentile_95(distances: np.ndarray, areas: np.ndarray) -> float:
        order = np.argsort(distances)
        summed = np.cumsum(areas[order])
        place = int(np.searchsorted(summed / summed[-1], 0.95))
        return float(distances[order[min(place, len(order) - 1)]])

    hd95_mm = max(percentile_95(there, our_areas), percentile_95(back, their_areas))
    return hd95_mm, _share_within(there, back, our_areas, their_areas, tolerance_mm)


def _share_within(
    there: np.ndarray, back: np.ndarray, our_weights: np.ndarray, their_weights: np.ndarray, tolerance_mm: float
) -> float:
    # In float32, so that a distance of exactly the tolerance is within it: 3 * 0.1 > 0.3 in float64.
    limit = np.float32(tolerance_mm)
    within = our_weights[there <= limit].sum() + their_weights[back <= limit].sum()
    return float(within / (our_weights.sum() + their_weights.sum()))


def measure_volumes(
    prediction: np.ndarray, spacing_mm: tuple[float, float, float], num_classes: int
) -> list[ClassScore]:
    """The predicted volumes of the classes 1 to num_classes - 1 of a case without reference; all else is NaN."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    counts = _count(prediction, num_classes)[1:]
    return [ClassScore(*_NO_SCORES, count * voxel_ml, np.nan, empty="") for count in counts.tolist()]


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
