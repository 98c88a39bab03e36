"""Volumes in and out of files: the one place where axes change.

Whatever a file's orientation, arrays are (D, H, W[, C]) in RAS+: D runs inferior to superior, H posterior to
anterior, W left to right. Axes are swapped and flipped, never interpolated; obliquity stays in the affine.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from data.files.errors import FileProblem, names_its_file
from data.files.formats.registry import FORMATS, find_format, format_of, suffixes
from data.files.grid import Grid, Source
from data.files.header import Header
from machine import disk

__all__ = [
    "FileProblem", "Grid", "Header", "Source", "read_header", "read_image", "read_label",
    "require_classes", "require_counted", "require_finite", "write_volume",
]  # fmt: skip

SHOWN_VALUES = 5  # wrong values listed in a message


@names_its_file
def read_header(path: Path) -> Header:
    """Shape, spacing, orientation, type and `problems` of a volume, from its header and size alone.

    Raises FileProblem where not even that much can be had.
    """
    known = find_format(path)
    if known is None and path.is_file():
        raise FileProblem(path, "not a volume by its name", f"expected one of {', '.join(suffixes())}")
    return (known or FORMATS["NIfTI"]).read_header(path)


@names_its_file
def read_image(path: Path) -> tuple[np.ndarray, Grid, Source]:
    """A volume (D, H, W, C) float32 in RAS+, scale factors applied, with its grid and its file.

    4-D files give channels; a fourth axis of length 1 gives one. NaN and infinite voxels are passed on: see
    `require_finite`. Raises FileProblem.
    """
    header = _readable(path)
    stored = _stored(header)  # (i, j, k, C), the file's axes
    volume = np.empty((*header.grid.shape, header.channels), dtype=np.float32)
    target = header.source.orientation.from_dhw(volume)
    for k in range(stored.shape[2]):  # float64 for a slice at a time
        target[:, :, k] = scaled(stored[:, :, k], header)
    return volume, header.grid, header.source


def scaled(stored: np.ndarray, header: Header) -> np.ndarray:
    """Stored values as float32, scale factors applied. What float32 cannot hold becomes infinite: found later."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not header.scaled:
            return stored.astype(np.float32)
        return (stored.astype(np.float64) * header.slope + header.inter).astype(np.float32)


@names_its_file
def read_label(path: Path) -> tuple[np.ndarray, Grid, Source]:
    """A label map (D, H, W) in RAS+, scale factors applied: uint8 where its values fit, else int32.

    Float files of whole numbers are fine, and scale factors that come out whole but for rounding (`whole_labels`).
    Raises FileProblem for values that are not whole, with the value and how many there are, and for several
    channels.
    """
    header = _readable(path)
    if header.channels > 1:
        reason = f"label with {header.channels} channels, expected one integer map"
        raise FileProblem(header.path, reason, "merge the channels into one map of class numbers")
    values = header.source.orientation.to_dhw(_stored(header)[..., 0])
    if header.scaled:
        stored, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        values = whole_labels(header, stored, counts)[places].reshape(values.shape)
    elif values.dtype.kind == "f":
        whole = np.isfinite(values)
        whole &= np.where(whole, values, 0.5) == np.rint(np.where(whole, values, 0))
        if not whole.all():
            raise _not_whole(header.path, values[~whole], int(np.count_nonzero(~whole)))
    low, high = (int(values.min()), int(values.max()))
    check_label_range(header.path, low, high)
    dtype = np.uint8 if low >= 0 and high <= 255 else np.int32
    return np.ascontiguousarray(values, dtype=dtype), header.grid, header.source


def check_label_range(path: Path, low: int, high: int) -> None:
    """Raises FileProblem for label values that int32 cannot hold."""
    if low < -(2**31) or high >= 2**31:
        raise FileProblem(path, f"label values {low} to {high}", "number the classes from 0")


def whole_labels(header: Header, stored: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The whole numbers (n,) float64 that the distinct values stored in a label (n,) stand for, scale factors applied.

    A factor that a float label was packed with is rounded: a value counts as whole within half a step of the stored
    ones, but at least 0.001 and at most 0.05. `counts` (n,) are the voxels of each. Raises FileProblem for
    values that are not whole, and where different stored values become one.
    """
    tolerance = max(1e-3, min(0.05, abs(header.slope) / 2)) if header.scaled else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64) * header.slope + header.inter
        whole = np.rint(values)
        wrong = ~(np.abs(values - whole) <= tolerance)  # NaN and infinity among them
    if wrong.any():
        raise _not_whole(header.path, values[wrong], int(counts[wrong].sum()))
    if len(np.unique(whole)) < len(whole):
        reason = f"scale factors (slope {header.slope:g}, intercept {header.inter:g}) that make different labels equal"
        raise FileProblem(header.path, reason, "save the label as integers, without scale factors")
    return whole


def _not_whole(path: Path, values: np.ndarray, num_voxels: int) -> FileProblem:
    reason = f"label values that are not whole numbers: {_listed(values)}, {num_voxels} voxels"
    return FileProblem(path, reason, "save the label as integers, resampled per class if at all")


def require_finite(volume: np.ndarray, path: Path | str) -> None:
    """Raises FileProblem, with the count, for NaN or infinite voxels."""
    with np.errstate(invalid="ignore"):
        total = np.sum(volume, dtype=np.float64)  # one pass, no mask: a single bad voxel makes it so
    if np.isfinite(total):
        return
    bad = int(np.count_nonzero(~np.isfinite(volume)))
    nans = int(np.count_nonzero(np.isnan(volume)))
    if bad:
        raise finite_problem(path, nans, bad - nans, volume.size)


def finite_problem(path: Path | str, nans: int, infinite: int, size: int) -> FileProblem:
    """The problem of a volume of `size` voxels, some of which are no numbers."""
    reason = f"{nans} NaN and {infinite} infinite voxels of {size}"
    return FileProblem(path, reason, "set them to a number, or leave the case out")


def require_classes(label: np.ndarray, num_classes: int, path: Path | str, ignore_label: int | None = None) -> None:
    """Raises FileProblem, with values and count, for labels outside 0 … num_classes - 1 and `ignore_label`."""
    low, high = int(label.min()), int(label.max())
    if low >= 0 and high < num_classes:
        return
    values, counts = np.unique(label, return_counts=True)
    require_counted(dict(zip(values.tolist(), counts.tolist(), strict=True)), num_classes, path, ignore_label)


def require_counted(
    voxels: Mapping[int, int], num_classes: int, path: Path | str, ignore_label: int | None = None
) -> None:
    """Raises FileProblem as `require_classes` does, of a label's voxels by value."""
    wrong = {value: count for value, count in voxels.items() if not 0 <= value < num_classes and value != ignore_label}
    if wrong:
        listed = _listed(np.array(list(wrong)))
        reason = f"label values outside 0…{num_classes - 1}: {listed}, {sum(wrong.values())} voxels"
        free = [value for value in range(1, num_classes) if value not in voxels]
        mapped = suggest_label_map(wrong, free)
        fix = "list every class in data.class_names or data.regions (or the data set's own list)"
        fix += f", or map the values: {mapped}" if mapped else ", or correct the label"
        raise FileProblem(path, reason, fix)


def suggest_label_map(values: Iterable[int], numbers: Iterable[int]) -> str:
    """Return the override that reads label values as these numbers in order, then as 0; "" for more than 20 values.

    It is quoted for a shell. Negative values become 0.
    """
    wrong, free = sorted(values), iter(numbers)
    pairs = ", ".join(f"{value}: {next(free, 0) if value > 0 else 0}" for value in wrong)
    return f"'data.label_map={{{pairs}}}'" if 0 < len(wrong) <= 20 else ""


def write_volume(
    path: Path | str, volume: np.ndarray, source: Source, dtype: np.typing.DTypeLike | None = None
) -> Path:
    """Write (D, H, W[, C]) in RAS+ on the grid of the file it came from, in the format of the path; returns the path.

    Labels become uint8, or uint16 past 255, unless `dtype` says otherwise; floats become float32. Of NIfTI sform and
    qform with their codes, voxel sizes and units are the source's; there are no scale factors. The file
    appears whole or not at all.
    """
    path = Path(path)
    known = format_of(path)
    if known is None or known.write is None or not path.name.endswith(known.written):
        names = ", ".join(suffix for each in FORMATS.values() for suffix in each.written)
        raise ValueError(f"{path}: predictions are written as {names}")
    if volume.shape[:3] != source.grid.shape or volume.ndim not in (3, 4):
        expected = (*source.grid.shape,)
        raise ValueError(f"{path}: expected a volume of {expected}, the grid of {source.path}; got {volume.shape}")
    kind = np.dtype(dtype) if dtype is not None else _stored_type(volume)
    if kind.kind in "iu" and not _fits(volume, kind):
        raise ValueError(f"{path}: values {volume.min()} to {volume.max()} are no {kind} labels")
    values = source.orientation.from_dhw(volume).astype(kind.newbyteorder("="), copy=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with disk.writing(path):
            known.write(partial, source, values)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _readable(path: Path | str) -> Header:
    header = read_header(path)
    if header.problems:
        raise header.problems[0]
    return header


def _stored(header: Header) -> np.ndarray:
    known = find_format(header.path) or FORMATS["NIfTI"]
    return known.read_stored(header)


def _listed(values: np.ndarray) -> str:
    different = np.unique(values)
    shown = ", ".join(f"{value:g}" for value in different[:SHOWN_VALUES].astype(np.float64))
    return shown + (", …" if len(different) > SHOWN_VALUES else "")


def _stored_type(volume: np.ndarray) -> np.dtype:
    if volume.dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.uint8) if not volume.size or volume.max() <= 255 else np.dtype(np.uint16)


def _fits(volume: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    return volume.dtype.kind in "biu" and volume.min() >= limits.min and volume.max() <= limits.max
