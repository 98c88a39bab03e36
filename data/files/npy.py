"""Volumes in NumPy files.

An `.npy` holds one array, (D, H, W) or (D, H, W, C), in RAS+ with 1 mm voxels. An `.npz` holds one such
array under any name and, where known, `spacing_mm` (3,) in (D, H, W) order or `affine` (4, 4) from voxel
(i, j, k) = (W, H, D) index to mm. An affine that is not RAS+ is honoured: the array is reoriented.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from data.files.errors import FileProblem, readable_size
from data.files.grid import Source
from data.files.gzip import MAX_DEFLATE_RATIO, RESTORE, open_file
from data.files.header import Header, affine_problem, dtype_problem, split_channels

SUFFIXES = (".npy", ".npz")
GEOMETRY = ("spacing_mm", "affine")


def read_array_header(path: Path) -> Header:
    """Facts of a NumPy file; raises FileProblem where it is none, or holds more than one volume."""
    with _open_array(path) as (file, held, affine):
        shape_dhw, _, dtype = _npy_header(path, file)
    if affine is not None and affine.shape == (3,):
        affine = np.diag([*affine[::-1], 1.0])
    affine = np.eye(4) if affine is None else affine
    if affine.shape != (4, 4):
        reason = f"spacing_mm or affine of shape {affine.shape}, expected (3,) or (4, 4)"
        raise FileProblem(path, reason, "save it again")
    (d, h, w), channels = split_channels(path, shape_dhw)
    if (problem := affine_problem(path, affine) or dtype_problem(path, dtype)) is not None:
        raise problem
    source = Source(path, "numpy", (w, h, d), affine)
    header = Header(source, channels, dtype, 1.0, 0.0, path, 0, ())
    if header.num_bytes > held:
        reason = f"truncated: its header promises {readable_size(header.num_bytes)}, it can hold {readable_size(held)}"
        return replace(header, problems=(FileProblem(path, reason, RESTORE),))
    return header


def read_array(header: Header) -> np.ndarray:
    """The array as stored, (i, j, k, C)."""
    with _open_array(header.path) as (file, _, _):
        try:
            array = npy.read_array(file, allow_pickle=False)
        except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise FileProblem(header.path, f"damaged NumPy file ({error})", RESTORE) from None
    i, j, k = header.source.shape
    return array.reshape(k, j, i, header.channels).transpose(2, 1, 0, 3)


@contextmanager
def _open_array(path: Path) -> Iterator[tuple[BinaryIO, int, np.ndarray | None]]:
    """The volume's .npy stream, how many bytes it can hold at most, and the affine or spacing beside it."""
    with open_file(path) as file:
        if path.suffix != ".npz":
            yield file, path.stat().st_size, None
            return
        try:
            with zipfile.ZipFile(file) as archive:
                sizes = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                volumes = [name for name in sizes if name not in GEOMETRY]
                if len(volumes) != 1:
                    reason = f"holds the arrays {', '.join(sizes) or '(none)'}, expected one volume"
                    raise FileProblem(path, reason, f"save one volume, and at most {' and '.join(GEOMETRY)}")
                beside = None
                for name in sorted(GEOMETRY, reverse=True):  # the affine, as it says more, comes last
                    if name in sizes and sizes[name].file_size < 4096:
                        with archive.open(sizes[name]) as member:
                            beside = npy.read_array(member, allow_pickle=False).astype(np.float64)
                info = sizes[volumes[0]]
                held = min(info.file_size, MAX_DEFLATE_RATIO * info.compress_size)
                with archive.open(info) as member:
                    yield member, held, beside  # type: ignore[misc]  # IO[bytes], as good
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise FileProblem(path, f"damaged .npz archive ({error})", RESTORE) from None


def _npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return read(file)
    except ValueError as error:
        raise FileProblem(path, f"not a NumPy array ({error})", RESTORE) from None
