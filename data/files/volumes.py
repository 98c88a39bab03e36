"""Volumes in and out of files: the one place where axes change.

Whatever a file's orientation, arrays are (D, H, W[, C]) in RAS+: D runs inferior to superior, H posterior to
anterior, W left to right. Axes are swapped and flipped, never interpolated; obliquity stays in the affine.
"""

import os
from pathlib import Path

import numpy as np

from data.files import nifti, npy
from data.files.errors import FileProblem
from data.files.grid import Grid, Source
from data.files.header import Header
from data.layouts.cases import SUFFIXES

__all__ = [
    "SUFFIXES", "FileProblem", "Grid", "Header", "Source", "read_header", "read_image", "read_label",
    "require_classes", "require_finite", "write_volume",
]  # fmt: skip

SHOWN_VALUES = 5  # wrong values listed in a message


def read_header(path: Path | str) -> Header:
    """Shape, spacing, orientation, type and `problems` of a volume, from its header and size alone.

    Raises FileProblem where not even that much can be had.
    """
    path = Path(path)
    if path.name.endswith(npy.SUFFIXES):
        return npy.read_array_header(path)
    if path.name.endswith(nifti.SUFFIXES) or path.is_dir() or not path.exists():
        return nifti.read_nifti_header(path)
    raise FileProblem(path, "not a volume by its name", f"expected one of {', '.join(SUFFIXES)}")


def read_image(path: Path | str) -> tuple[np.ndarray, Grid, Source]:
    """A volume (D, H, W, C) float32 in RAS+, scale factors applied, with its grid and its file.

    4-D files give channels; a fourth axis of length 1 gives one. NaN and infinite voxels are passed on: see
    `require_finite`. Raises FileProblem.
    """
    header = _readable(path)
    stored = _stored(header)  # (i, j, k, C), the file's axes
    volume = np.empty((*header.grid.shape, header.channels), dtype=np.float32)
    target = header.source.orientation.from_dhw(volume)
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite: found later
        if not header.scaled:
            target[...] = stored
        else:
            for k in range(stored.shape[2]):  # float64 for a slice at a time
                plane = stored[:, :, k].astype(np.float64)
                target[:, :, k] = plane * header.slope + header.inter
    return volume, header.grid, header.source


def read_label(path: Path | str) -> tuple[np.ndarray, Grid, Source]:
    """A label map (D, H, W) in RAS+ as stored, unscaled: uint8 where its values fit, else int32.

    Float files of whole numbers are fine. Raises FileProblem for values that are not whole, with the value
    and how many there are, and for several channels.
    """
    header = _readable(path)
    if header.channels > 1:
        reason = f"label with {header.channels} channels, expected one integer map"
        raise FileProblem(header.path, reason, "merge the channels into one map of class numbers")
    values = header.source.orientation.to_dhw(_stored(header)[..., 0])
    if values.dtype.kind == "f":
        whole = np.isfinite(values)
        whole &= np.where(whole, values, 0.5) == np.rint(np.where(whole, values, 0))
        if not whole.all():
            wrong = values[~whole]
            reason = f"label values that are not whole numbers: {_listed(wrong)}, {wrong.size} voxels"
            raise FileProblem(header.path, reason, "save the label as integers, resampled per class if at all")
    low, high = (int(values.min()), int(values.max()))
    if low < -(2**31) or high >= 2**31:
        raise FileProblem(header.path, f"label values up to {high}", "number the classes from 0")
    dtype = np.uint8 if low >= 0 and high <= 255 else np.int32
    return np.ascontiguousarray(values, dtype=dtype), header.grid, header.source


def require_finite(volume: np.ndarray, path: Path | str) -> None:
    """Raises FileProblem, with the count, for NaN or infinite voxels."""
    with np.errstate(invalid="ignore"):
        total = np.sum(volume, dtype=np.float64)  # one pass, no mask: a single bad voxel makes it so
    if np.isfinite(total):
        return
    bad = int(np.count_nonzero(~np.isfinite(volume)))
    nans = int(np.count_nonzero(np.isnan(volume)))
    if bad:
        reason = f"{nans} NaN and {bad - nans} infinite voxels of {volume.size}"
        raise FileProblem(path, reason, "set them to a number, or leave the case out")


def require_classes(label: np.ndarray, num_classes: int, path: Path | str, ignore_label: int | None = None) -> None:
    """Raises FileProblem, with values and count, for labels outside 0 … num_classes - 1 and `ignore_label`."""
    low, high = int(label.min()), int(label.max())
    if low >= 0 and high < num_classes:
        return
    outside = (label < 0) | (label >= num_classes)
    if ignore_label is not None:
        outside &= label != ignore_label
    wrong = label[outside]
    if wrong.size:
        reason = f"label values outside 0…{num_classes - 1}: {_listed(wrong)}, {wrong.size} voxels"
        mend = "list every class in data.class_names (or the data set's own list), or correct the label"
        raise FileProblem(path, reason, mend)


def write_volume(
    path: Path | str, volume: np.ndarray, source: Source, dtype: np.typing.DTypeLike | None = None
) -> Path:
    """Write (D, H, W[, C]) in RAS+ as NIfTI on the grid of the file it came from; returns the path.

    Labels become uint8, or uint16 past 255, unless `dtype` says otherwise; floats become float32. sform and
    qform with their codes, voxel sizes and units are the source's; there are no scale factors. The file
    appears whole or not at all.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: predictions are written as NIfTI; name the file .nii or .nii.gz")
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
        nifti.write_single(partial, source, values)
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
    return npy.read_array(header) if header.source.format == "numpy" else nifti.read_stored(header)


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
