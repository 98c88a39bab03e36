"""What a predicted label volume is worth, class by class, against its reference."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from engine.surface import border, border_distances_mm

METRICS = ("dice", "iou", "hd95_mm", "nsd", "volume_error_ml")


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. Values are NaN where the class is empty in both volumes.

    Where it is empty in one of the two, `dice`, `iou` and `nsd` are 0 and `hd95_mm` is infinite.
    """

    dice: float
    iou: float
    hd95_mm: float
    nsd: float
    volume_error_ml: float  # predicted less reference: negative where too little is found
    volume_ml: float  # predicted
    reference_volume_ml: float
    empty: str  # "", "both", "prediction" or "reference"


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
    the distances between border voxels; NSD (normalised surface Dice, Nikolov et al. 2021, arXiv:1809.04430) is
    the share of border voxels, of both volumes together, within `tolerance_mm` of the other's border: MONAI's
    definitions. Voxels whose reference is `ignore_label` belong to no class. Raises ValueError where the shapes
    differ.
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
            nan = np.nan
            scores.append(ClassScore(nan, nan, nan, nan, nan, 0.0, 0.0, empty="both"))
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
    if predicted and expected:
        ours, theirs = border(ours), border(theirs)  # under the same names: frees the regions
        there, back = border_distances_mm(ours, theirs, spacing_mm)
        hd95_mm = float(max(np.percentile(there, 95), np.percentile(back, 95)))
        # In float32, so that a border exactly at the tolerance is within it: 3 * 0.1 > 0.3 in float64.
        within = (there <= np.float32(tolerance_mm)).sum() + (back <= np.float32(tolerance_mm)).sum()
        nsd = float(within / (there.size + back.size))
    else:
        hd95_mm, nsd = np.inf, 0.0
    return ClassScore(
        dice=2 * both / (predicted + expected),
        iou=both / (predicted + expected - both),
        hd95_mm=hd95_mm,
        nsd=nsd,
        volume_error_ml=(predicted - expected) * voxel_ml,
        volume_ml=predicted * voxel_ml,
        reference_volume_ml=expected * voxel_ml,
        empty="prediction" if not predicted else "reference" if not expected else "",
    )


def measure_volumes(
    prediction: np.ndarray, spacing_mm: tuple[float, float, float], num_classes: int
) -> list[ClassScore]:
    """The predicted volumes of the classes 1 to num_classes - 1 of a case without reference; all else is NaN."""
    voxel_ml, nan = float(np.prod(spacing_mm)) / 1000, np.nan
    counts = _count(prediction, num_classes)[1:]
    return [ClassScore(nan, nan, nan, nan, nan, count * voxel_ml, nan, empty="") for count in counts.tolist()]


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
