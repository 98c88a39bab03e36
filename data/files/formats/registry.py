"""The registry of the formats of volumes, by the ends of their files' names."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files.formats import itk, mgh, nifti, npy
from data.files.formats.dicom import folder as dicom_folder
from data.files.formats.dicom import series as dicom
from data.files.grid import Source
from data.files.header import Header
from data.files.stored import read_slabs, read_stored


class FileFormat(NamedTuple):
    """A format: what reads a file's header and its voxels as stored, (i, j, k, C) in the file's axes; what writes."""

    suffixes: tuple[str, ...]
    read_header: Callable[[Path], Header]  # raises FileProblem where not even that can be had
    read_stored: Callable[[Header], np.ndarray]
    # The voxels a few slices at a time, (header, most_bytes) as `data.files.stored.read_slabs`; None: all at once.
    read_slabs: Callable[[Header, int], Iterator[tuple[int, int, np.ndarray]]] | None = None
    write: Callable[[Path, Source, np.ndarray], None] | None = None  # (i, j, k[, C]) on the source's grid
    written: tuple[str, ...] = ()  # suffixes that it writes, that of predictions first; none: they become NIfTI
    list_parts: Callable[[Path], list[Path]] = lambda path: [path]  # all files that the volume lies in
    # Whether a path of another name is a volume, by its contents. A volume is then a folder, and a file a part of one.
    is_at: Callable[[Path], bool] | None = None


FORMATS = {
    "NIfTI": FileFormat(
        nifti.SUFFIXES, nifti.read_nifti_header, read_stored, read_slabs,
        nifti.write_single, (".nii.gz", ".nii"), nifti.list_parts,
    ),
    "MGH": FileFormat(mgh.SUFFIXES, mgh.read_mgh_header, read_stored, read_slabs, mgh.write, (".mgz", ".mgh")),
    "NRRD": FileFormat(
        itk.NRRD_SUFFIXES, itk.read_itk_header, itk.read_voxels, None, itk.write, (".nrrd",), itk.list_parts
    ),
    "MetaImage": FileFormat(
        itk.META_SUFFIXES, itk.read_itk_header, itk.read_voxels, None, itk.write, (".mha",), itk.list_parts
    ),
    "NumPy": FileFormat(npy.SUFFIXES, npy.read_array_header, npy.read_array),
    "DICOM": FileFormat(
        dicom_folder.SUFFIXES, dicom.read_header, dicom.read_stored, dicom.read_slabs,
        list_parts=dicom.list_parts, is_at=dicom_folder.is_series,
    ),
}  # fmt: skip


def suffixes() -> tuple[str, ...]:
    """Return the ends of the names of volumes, in small letters."""
    return tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)


def format_of(path: Path) -> FileFormat | None:
    """Return the format of a file by its name, in capitals or not; None where it is no volume's."""
    name = path.name.lower()
    return next((known for known in FORMATS.values() if name.endswith(known.suffixes)), None)


def find_format(path: Path) -> FileFormat | None:
    """Return the format of a file or folder by its name, else by what it holds; None where it is no volume's."""
    found = (known for known in FORMATS.values() if known.is_at is not None and known.is_at(path))
    return format_of(path) or next(found, None)


def prediction_suffix(source: Source) -> str:
    """Return the end of the name of a prediction for a volume: its own format's where that is written, or NIfTI's."""
    known = format_of(source.path)
    return (known.written if known is not None and known.written else FORMATS["NIfTI"].written)[0]


def parts_of(paths: Iterable[Path]) -> list[Path]:
    """Return the paths, each file of a volume with all files that the volume lies in, a folder of frames as they."""
    parts = []
    for path in paths:
        known = find_format(path)
        if known is not None:
            parts += known.list_parts(path)
        elif path.is_dir():
            parts += sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        else:
            parts.append(path)
    return parts
