"""A folder of DICOM slices, or one of its files, as a volume."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from data.files.errors import FileProblem
from data.files.formats.dicom.folder import list_files
from data.files.formats.dicom.geometry import order_slices
from data.files.formats.dicom.instances import NO_IMAGES, Contents, Instance, Series, read_contents
from data.files.formats.dicom.voxels import read_frames
from data.files.grid import Source
from data.files.header import Header, affine_problem, split_channels

_KEPT = 512  # series whose headers are remembered, as each is asked for several times; about 0.2 MB for 300 slices


@dataclass(frozen=True, eq=False)
class _Volume:
    """A series: `places` are (instance, frame) of its slices in order, `scales` (slices, 2) theirs if they differ."""

    header: Header
    instances: tuple[Instance, ...]
    places: tuple[tuple[int, int], ...]
    scales: np.ndarray | None


def read_header(path: Path) -> Header:
    """Return the header of the series at a folder, or of that which a file belongs to. Raises FileProblem."""
    return _volume(path).header


def read_stored(header: Header) -> np.ndarray:
    """Return voxels (i, j, k, 1) as stored, or, where slices have scale factors of their own, scaled, in float32.

    MONOCHROME1 is no other data, only to be shown inverted: values stay as they are.
    """
    stored = np.empty(header.source.shape[::-1], header.dtype)
    for _, k, plane in read_slabs(header, 0):
        stored[k : k + 1] = plane
    return stored.transpose(2, 1, 0)[..., None]


def read_slabs(header: Header, most_bytes: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the channel 0, a slice's number and the slice (1, j, i), as `read_stored` gives them; one at a time.

    They come in order, but those of multi-frame files as these hold them.
    """
    volume = _volume(header.path)
    where = {place: k for k, place in enumerate(volume.places)}
    for number in dict.fromkeys(number for number, _ in volume.places):
        for frame, values in enumerate(read_frames(volume.instances[number])):
            k = where[number, frame]
            scaled = values if volume.scales is None else values * volume.scales[k, 0] + volume.scales[k, 1]
            yield 0, k, scaled[None].astype(header.dtype, copy=False)


def list_parts(path: Path) -> list[Path]:
    """Return all files that a series may lie in, the path itself first where it is a file: it says which series."""
    files = list_files(path)
    return files if path.is_dir() else [path, *(file for file in files if file != path)]


def choose_series(path: Path, wanted: str) -> Path | None:
    """Return a file of the only series at a folder that `wanted` names, None where it names none.

    It is a series' description, in capitals or not, with `*` and `?`, or the UID or its end. The folder itself is
    returned where several fit: reading it says so. Raises FileProblem.
    """
    contents = _contents(path)
    found = [each for each in contents.series if _is_named(each, wanted)]
    return None if not found else path if len(found) > 1 else found[0].instances[0].path


def describe_series(path: Path) -> str:
    """Return the series at a folder in a line: descriptions, UIDs' ends, numbers of slices."""
    return ", ".join(map(str, _contents(path).series)) or "none"


def _is_named(series: Series, wanted: str) -> bool:
    name, pattern = series.description.lower().strip(), wanted.lower().strip()
    return series.uid.endswith(wanted) or name == pattern or fnmatchcase(name, pattern)


def _volume(path: Path) -> _Volume:
    return _read_volume(path, _stamp(path))


def _contents(path: Path) -> Contents:
    return _read_contents(path, _stamp(path))


def _stamp(path: Path) -> str:
    """Return a hash that changes with the files."""
    found = [(str(file), file.stat()) for file in list_files(path) if file.exists()]
    facts = [(name, status.st_size, status.st_mtime_ns) for name, status in found]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


@functools.lru_cache(1)  # between choosing a series and reading it
def _read_contents(path: Path, stamp: str) -> Contents:
    return read_contents(path)


@functools.lru_cache(_KEPT)
def _read_volume(path: Path, stamp: str) -> _Volume:
    contents = _read_contents(path, stamp)
    if len(contents.series) != 1:
        raise _no_single_series(path, contents)
    instances = contents.series[0].instances
    for instance in instances:
        if instance.problem is not None:
            raise instance.problem
    _check_sizes(path, instances)
    numbered = [(number, each) for number, instance in enumerate(instances) for each in instance.slices]
    rows, columns = instances[0].size
    shape, _ = split_channels(path, (columns, rows, len(numbered)))
    order, affine = order_slices(path, [each for _, each in numbered])
    if (problem := affine_problem(path, affine)) is not None:
        raise problem
    scales = np.array([numbered[k][1].scale for k in order])
    is_one = bool((scales == scales[0]).all())
    dtype = np.result_type(*(instance.dtype for instance in instances)) if is_one else np.dtype(np.float32)
    slope, inter = scales[0].tolist() if is_one else (1.0, 0.0)
    source = Source(path, "dicom", shape, affine)
    first, others = instances[0], contents.others
    header = Header(source, 1, dtype, slope, inter, first.path, 0, (), modality=first.modality, ignored=others)
    places = tuple((numbered[k][0], numbered[k][1].frame) for k in order)
    return _Volume(header, instances, places, None if is_one else scales)


def _no_single_series(path: Path, contents: Contents) -> FileProblem:
    """Return what is wrong where there are several series, or only what is no image."""
    if contents.series:
        listed = ", ".join(map(str, contents.series[:5])) + (", …" if len(contents.series) > 5 else "")
        reason = f"{len(contents.series)} series: {listed}"
        return FileProblem(path, reason, "name one in data.dicom_series, by its description or the end of its UID")
    kind = next((kind for kind in NO_IMAGES if contents.others[kind]), None)
    if kind is not None:
        return FileProblem(path, f"a DICOM {kind} object, no image", NO_IMAGES[kind])
    return FileProblem(path, f"no DICOM image ({_count(contents.others)})", "name the folder of the slices")


def _count(others: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in others.items()) or "none at all"


def _check_sizes(path: Path, instances: Sequence[Instance]) -> None:
    sizes: dict[tuple[int, int], str] = {}
    for instance in instances:
        sizes.setdefault(instance.size, instance.path.name)
    if len(sizes) > 1:
        said = " and ".join(f"{rows} × {columns} ({name})" for (rows, columns), name in list(sizes.items())[:2])
        raise FileProblem(path, f"slices of different sizes: {said}", "split the series by them, or leave it out")
