"""Slices to a volume: their order and affine, or what keeps them from being one."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files.errors import RESTORE, FileProblem
from data.files.formats.dicom.instances import Slice
from data.files.grid import GRID_TOLERANCE_VOXELS

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE = 1e-3  # of directions, and relative of spacings: headers round
_SAME_PLACE_MM = 1e-3
_UNEQUAL = 0.1  # share of the distance between slices that one may lie off its place
_EXPORT = "export the series again, or convert it to NIfTI with dcm2niix"


def order_slices(path: Path, slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Return the order of slices along their normal, and the affine (4, 4) from (column, row, slice) to mm in RAS+.

    Raises FileProblem for slices that are no stack of parallel planes, evenly spaced along their normal, one each.
    """
    along = np.array(slices[0].along).reshape(2, 3)
    lengths = np.linalg.norm(along, axis=1)
    if np.abs(lengths - 1).max() > _TOLERANCE or abs(along[0] @ along[1]) > _TOLERANCE:
        raise FileProblem(path, f"ImageOrientationPatient {list(slices[0].along)} is no pair of axes", RESTORE)
    _check_alike(path, slices)
    along = along / lengths[:, None]
    normal = np.cross(along[0], along[1])
    positions = np.array([each.position for each in slices])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [slices[number] for number in order]
    step = _step(path, ordered, heights[order])
    row_mm, column_mm = slices[0].spacing_mm
    _check_straight(path, positions[order], normal, min(row_mm, column_mm))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along[0] * column_mm, along[1] * row_mm
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions[order[0]]
    return order.tolist(), LPS_TO_RAS @ affine


def _check_alike(path: Path, slices: Sequence[Slice]) -> None:
    """Raise FileProblem for slices of several orientations or pixel spacings, with one file of each."""
    first = slices[0]
    for what, attribute, relative in (("orientations", "along", 0.0), ("pixel spacings", "spacing_mm", _TOLERANCE)):
        wanted = np.array(getattr(first, attribute))
        for each in slices:
            if not np.allclose(getattr(each, attribute), wanted, rtol=relative, atol=0 if relative else _TOLERANCE):
                reason = f"slices of different {what} ({first.path.name} and {each.path.name})"
                raise FileProblem(path, reason, "split the series by them, or leave it out")


def _step(path: Path, ordered: Sequence[Slice], heights: np.ndarray) -> float:
    """Return the distance between slices in mm, 1 of a single one. Raises FileProblem for uneven ones."""
    if len(heights) == 1:
        return 1.0
    gaps = np.diff(heights)
    if (same := gaps < _SAME_PLACE_MM).any():
        at = int(np.flatnonzero(same)[0])
        places = len(gaps) - int(same.sum()) + 1
        reason = f"{len(heights)} slices at {places} places ({_name(ordered[at])} and {_name(ordered[at + 1])} at one)"
        if len(heights) % places == 0:
            fix = "split it into one series for each time point, echo or copy, and name one in data.dicom_series"
        else:
            fix = "remove the duplicates"
        raise FileProblem(path, reason, fix)
    usual = float(np.median(gaps))
    at = int(gaps.argmax())
    missing = round(float(gaps[at]) / usual) - 1
    if missing >= 1 and abs(gaps[at] / usual - missing - 1) <= _UNEQUAL and gaps.min() > usual * (1 - _UNEQUAL):
        total = sum(round(float(gap) / usual) - 1 for gap in gaps)
        reason = (
            f"{total} missing slice{'s' if total > 1 else ''}: {gaps[at]:.4g} mm instead of {usual:.4g} "
            f"between {_name(ordered[at])} and {_name(ordered[at + 1])}"
        )
        raise FileProblem(path, reason, "restore the missing files")
    step = float(heights[-1] - heights[0]) / len(gaps)
    off = heights - (heights[0] + step * np.arange(len(heights)))
    if np.abs(off).max() > _UNEQUAL * step:
        raise FileProblem(path, f"slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, expected one distance", _EXPORT)
    return step


def _check_straight(path: Path, positions: np.ndarray, normal: np.ndarray, pixel_mm: float) -> None:
    """Raise FileProblem for slices that are not stacked along their normal, as of a tilted gantry."""
    moved = positions - positions[0]
    height = moved @ normal
    aside = np.linalg.norm(moved - height[:, None] * normal, axis=1)
    if aside.max() <= GRID_TOLERANCE_VOXELS * pixel_mm:
        return
    degrees = math.degrees(math.atan2(aside[-1], height[-1]))
    reason = f"slices shift sideways by up to {aside.max():.3g} mm (a gantry tilt of {degrees:.3g}°?)"
    raise FileProblem(path, reason, "convert it with dcm2niix, which corrects the tilt, and use its NIfTI file")


def _name(each: Slice) -> str:
    return f"{each.path.name} frame {each.frame + 1}" if each.frame else each.path.name
