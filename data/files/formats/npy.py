"""Volumes in NumPy files.

An `.npy` holds one array, (D, H, W) or (D, H, W, C), in RAS+ with 1 mm voxels. An `.npz` holds one such
array under any name and, where known, `spacing_mm` (3,) in (D, H, W) order or `affine` (4, 4) from voxel
(i, j, k) = (W, H, D) index to mm. An affine that is not RAS+ is honoured: the array is reoriented.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from data.files.errors import RESTORE, FileProblem, damage_of, readable_size
from data.files.grid import Source
from data.files.gzip import MAX_DEFLATE_RATIO, open_file
from data.files.header import Header, affine_problem, dtype_problem, split_channels

SUFFIXES = (".npy", ".npz")
GEOMETRY = ("spacing_mm", "affine")
ENCRYPTED = 1  # a bit of a zip member's flags


def read_array_header(path: Path) -> Header:
    """Facts of a NumPy file; raises FileProblem where it is none, or holds more than one volume."""
    with _open_volume(path) as (file, held, affine):
        shape_dhw, dtype = read_npy_header(file)
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
    if (problem := _room_problem(path, header.num_bytes, held)) is not None:
        return replace(header, problems=(problem,))
    return header


def read_array(header: Header) -> np.ndarray:
    """The array as stored, (i, j, k, C)."""
    with _open_volume(header.path) as (file, _, _):
        array = npy.read_array(file, allow_pickle=False)
    i, j, k = header.source.shape
    return array.reshape(k, j, i, header.channels).transpose(2, 1, 0, 3)


def read_member(path: Path, name: str) -> np.ndarray:
    """One array of an .npz. Raises FileProblem where it is damaged, or missing."""
    with _open_archive(path) as (archive, members):
        if name not in members:
            raise FileProblem(path, f"no array {name}", f"it holds {', '.join(members) or 'none'}")
        with archive.open(members[name]) as file:
            shape, dtype = read_npy_header(file)
        needed = math.prod(shape) * dtype.itemsize
        if (problem := _room_problem(path, needed, _most_bytes(members[name]))) is not None:
            raise problem
        with archive.open(members[name]) as file:
            return npy.read_array(file, allow_pickle=False)


def read_member_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each array of an .npz, by name. Raises FileProblem."""
    with _open_archive(path) as (archive, members):
        found = {}
        for name, info in members.items():
            with archive.open(info) as file:
                found[name] = read_npy_header(file)
        return found


def read_npy_header(file: BinaryIO | IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that a stream begins with."""
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


@contextmanager
def _open_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """An .npz with its members, by array."""
    with open_file(path) as file, _damage_of(path), zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if any(info.flag_bits & ENCRYPTED for info in members.values()):
            raise FileProblem(path, "an encrypted archive", "save it without a password")
        yield archive, members


@contextmanager
def _open_volume(path: Path) -> Iterator[tuple[BinaryIO | IO[bytes], int, np.ndarray | None]]:
    """The volume's .npy stream, how many bytes it can hold at most, and the affine or spacing beside it."""
    if not path.name.lower().endswith(".npz"):
        with open_file(path) as file, _damage_of(path):
            yield file, path.stat().st_size, None
        return
    with _open_archive(path) as (archive, members):
        volumes = [name for name in members if name not in GEOMETRY]
        if len(volumes) != 1:
            reason = f"holds the arrays {', '.join(members) or '(none)'}, expected one volume"
            raise FileProblem(path, reason, f"save one volume, and at most {' and '.join(GEOMETRY)}")
        beside = None
        for name in sorted(GEOMETRY, reverse=True):  # the affine, as it says more, comes last
            if name in members:
                beside = _read_geometry(path, archive, name, members[name])
        info = members[volumes[0]]
        with archive.open(info) as member:
            yield member, _most_bytes(info), beside


def _read_geometry(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, dtype = read_npy_header(member)
    if dtype.kind not in "iuf" or math.prod(shape) > 16:
        reason = f"{name} of {dtype} {shape}, expected 3 numbers, or an affine's 4 × 4"
        raise FileProblem(path, reason, "save it again")
    with archive.open(info) as member:
        return npy.read_array(member, allow_pickle=False).astype(np.float64)


def _most_bytes(info: zipfile.ZipInfo) -> int:
    return min(info.file_size, MAX_DEFLATE_RATIO * info.compress_size)


def _room_problem(path: Path, promised: int, held: int) -> FileProblem | None:
    if promised <= held:
        return None
    said = f"its header promises {readable_size(promised)}, it can hold {readable_size(held)}"
    return FileProblem(path, f"truncated: {said}", RESTORE)


def _damage_of(path: Path) -> AbstractContextManager[None]:
    """Say that the file is damaged, whatever unpacking it or parsing its header raises: NumPy reads that as Python."""
    is_archive = path.name.lower().endswith(".npz")
    return damage_of(path, "damaged .npz archive" if is_archive else "not a NumPy array, or a damaged one")
