"""A case from its files to what the network sees: read, check, crop, resample, normalise.

The grid is carried through every step, so that `data/prepare/to_source_grid.py` can undo them.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config
from configs.regions import gaps
from data.files.errors import fault_of
from data.files.grid import Grid, Shape, Source, Spacing
from data.files.volumes import FileProblem, read_image, read_label, require_classes, require_finite
from data.layouts.cases import Case
from data.prepare.cache import Entry
from data.prepare.case_checks import grid_mismatch
from data.prepare.copies import voxel_digest
from data.prepare.normalise import Intensities, Normalisation, normalise
from data.prepare.resample import Interpolation, resample_image
from data.prepare.resample_labels import resample_label

LabelMap = tuple[tuple[int, int], ...]  # pairs of a label value and what it is read as
MAX_FOREGROUND = 10_000  # coordinates kept per class and case; intensities drawn of a case
MAX_VOXELS = 1 << 30  # of one resampled case, channels included: 4 GiB in float32
_SPACING_TOLERANCE = 1e-3  # relative: a spacing as near as this to the one asked for is kept


@dataclass(frozen=True)
class Preparation:
    """Everything that decides how a case is prepared; part of the cache's key."""

    num_classes: int
    ignore_label: int | None = None
    label_map: LabelMap | None = None
    channels: tuple[int, ...] | None = None
    spacing_mm: Spacing | None = None
    interpolation: Interpolation = "linear"
    crop_nonzero: bool = False
    normalisation: Normalisation = "zscore"
    percentiles: tuple[float, float] = (0.5, 99.5)
    intensities: tuple[Intensities, ...] | None = None
    gaps: tuple[int, ...] = ()  # label values below num_classes that no region holds

    @classmethod
    def from_config(cls, config: Config, num_classes: int) -> "Preparation":
        """Return the preparation that the config asks for; the training split's intensities come in later."""
        data = config.data
        return cls(
            num_classes=num_classes,
            ignore_label=config.loss.ignore_label,
            label_map=None if data.label_map is None else tuple(sorted(data.label_map.items())),
            channels=data.channels,
            spacing_mm=data.spacing_mm,
            interpolation=data.interpolation,
            crop_nonzero=data.crop_nonzero,
            normalisation=data.normalisation,
            percentiles=data.percentiles,
            gaps=() if data.regions is None else tuple(gaps(data.regions)),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, equal for equal preparations."""
        facts = asdict(self)
        if self.label_map is None:
            del facts["label_map"]  # keys and fingerprints are those of before there were maps
        if not self.gaps:
            del facts["gaps"]  # and regions
        return facts

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """uint8 where it holds every class and the ignore label, else int16; the same for all cases."""
        highest = max(self.num_classes - 1, self.ignore_label or 0)
        return np.dtype(np.uint8 if highest <= 255 and (self.ignore_label or 0) >= 0 else np.int16)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it. Its arrays may be read-only memory maps."""

    id: str
    volume: np.ndarray  # (D, H, W, C) float32
    label: np.ndarray | None  # (D, H, W) uint8 or int16
    foreground: Mapping[int, np.ndarray]  # per class but background: voxels (n, 3) int32, (d, h, w)
    grid: Grid  # of the volume
    source_grid: Grid  # of the image file, in RAS+
    box: tuple[Shape, Shape]  # offset and shape of what was kept of the source grid
    source: Source  # the (first) image file
    digest: str = ""  # of the image's voxels as read: `Roster.reject_copies`
    notes: tuple[str, ...] = ()  # oddities; the case can be used

    @property
    def num_bytes(self) -> int:
        """That its arrays take."""
        label = 0 if self.label is None else self.label.nbytes
        return self.volume.nbytes + label + sum(voxels.nbytes for voxels in self.foreground.values())

    def to_entry(self) -> Entry:
        """Return what the cache stores of it."""
        rows = [np.insert(voxels, 0, value, axis=1) for value, voxels in self.foreground.items()]
        foreground = np.concatenate(rows) if rows else np.zeros((0, 4))
        arrays = {"volume": self.volume, "foreground": foreground.astype(np.int32)}
        if self.label is not None:
            arrays["label"] = self.label
        facts = {
            "id": self.id,
            "grid": self.grid.to_json(),
            "source_grid": self.source_grid.to_json(),
            "box": self.box,
            "source": self.source.to_json(),
            "digest": self.digest,
            "notes": self.notes,
            "foreground": {str(value): len(voxels) for value, voxels in self.foreground.items()},
        }
        return Entry(arrays, facts)

    @classmethod
    def from_entry(cls, entry: Entry) -> "Prepared":
        """Return the case that `to_entry` stored."""
        facts, foreground, start = entry.facts, {}, 0
        for value, count in facts["foreground"].items():
            foreground[int(value)] = entry.arrays["foreground"][start : start + count, 1:]
            start += count
        offset, shape = facts["box"]
        return cls(
            id=facts["id"],
            volume=entry.arrays["volume"],
            label=entry.arrays.get("label"),
            foreground=foreground,
            grid=Grid.from_json(facts["grid"]),
            source_grid=Grid.from_json(facts["source_grid"]),
            box=(tuple(offset), tuple(shape)),
            source=Source.from_json(facts["source"]),
            digest=facts["digest"],
            notes=tuple(facts["notes"]),
        )


def prepare(case: Case, preparation: Preparation) -> Prepared:
    """Read, check, crop, resample and normalise the case, its label (if any) alongside.

    Raises FileProblem for NaN or infinite voxels, label values that are no class, images or a label that do
    not share one grid, and whatever reading the files finds; what else goes wrong is the first image's fault.
    """
    with fault_of(case.images[0]):
        return _prepare(case, preparation)


def _prepare(case: Case, preparation: Preparation) -> Prepared:
    volume, source_grid, source = read_case_image(case, preparation.channels)
    label = read_case_label(case, source_grid, preparation)
    digest = voxel_digest(volume)
    offset, shape = (0, 0, 0), source_grid.shape
    notes = []
    if preparation.crop_nonzero:
        offset, shape = nonzero_box(volume)
        inside = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
        if label is not None and (lost := np.count_nonzero(label) - np.count_nonzero(label[inside])):
            notes.append(f"{lost} labelled voxels lie where the image is 0 and are cropped (data.crop_nonzero)")
        if shape != source_grid.shape:
            volume = volume[inside].copy()  # a copy, so that the whole volume is freed
            label = None if label is None else label[inside].copy()
    cropped = source_grid.crop(offset, shape)
    grid = working_grid(cropped, preparation.spacing_mm)
    if grid is not cropped:
        if np.prod(grid.shape) * volume.shape[-1] > MAX_VOXELS:
            raise FileProblem(
                case.images[0],
                f"resampled to data.spacing_mm={list(preparation.spacing_mm or ())} it has "
                f"{'×'.join(map(str, grid.shape))} voxels (its own spacing is {list(cropped.spacing_mm)} mm)",
                "correct the file's voxel sizes, or choose a larger data.spacing_mm",
            )
        volume = resample_image(volume, cropped, grid, preparation.interpolation)
        label = None if label is None else resample_label(label, cropped, grid)
    notes += normalise(volume, preparation.normalisation, preparation.percentiles, preparation.intensities)
    foreground = {} if label is None else sample_foreground(label, case.id, preparation.num_classes)
    box = (offset, shape)
    return Prepared(case.id, volume, label, foreground, grid, source_grid, box, source, digest, tuple(notes))


def working_grid(grid: Grid, spacing_mm: Spacing | None) -> Grid:
    """Return the grid at `spacing_mm` over the same field of view, to half a voxel, about the same centre (see
    `Grid.resample`); the grid itself where its spacing is that already, or none is asked for.
    """
    if spacing_mm is None or np.allclose(grid.spacing_mm, spacing_mm, rtol=_SPACING_TOLERANCE, atol=0):
        return grid
    extent = np.array(grid.shape) * grid.spacing_mm
    d, h, w = np.maximum(np.rint(extent / spacing_mm), 1).astype(np.int64).tolist()
    return grid.resample((d, h, w), spacing_mm)


def read_case_image(case: Case, channels: Sequence[int] | None = None) -> tuple[np.ndarray, Grid, Source]:
    """Return the case's image (D, H, W, C) float32, one file's channels or several files' in order, its grid, and its
    first file. Raises FileProblem where files do not share a grid, or a voxel is NaN or infinite.
    """
    volumes = []
    first_grid: Grid | None = None
    first_source: Source | None = None
    for path in case.images:
        volume, grid, source = read_image(path)
        require_finite(volume, path)
        if first_grid is None or first_source is None:
            first_grid, first_source = grid, source
        _require_same_grid(path, grid, case.images[0], first_grid)
        volumes.append(volume)
    assert first_grid is not None
    assert first_source is not None
    volume = volumes[0] if len(volumes) == 1 else np.concatenate(volumes, axis=-1)
    if channels is not None:
        if max(channels) >= volume.shape[-1]:
            reason = f"{volume.shape[-1]} channels, but data.channels={list(channels)}"
            raise FileProblem(case.images[0], reason, "channels count from 0; correct data.channels")
        volume = np.ascontiguousarray(volume[..., list(channels)])
    return volume, first_grid, first_source


def read_case_label(case: Case, image_grid: Grid, preparation: Preparation) -> np.ndarray | None:
    """Return the case's label (D, H, W) in `preparation.label_dtype`, None without one. Raises FileProblem."""
    if not case.label_files:
        return None
    label, grid = read_label_files(case, preparation.label_map, preparation.ignore_label)
    path = case.label_files[0]
    _require_same_grid(path, grid, case.images[0], image_grid)
    require_classes(label, preparation.num_classes, path, preparation.ignore_label)
    if preparation.gaps and (found := np.intersect1d(label, preparation.gaps)).size:
        reason = f"label values that no region of data.regions holds: {', '.join(map(str, found.tolist()))}"
        raise FileProblem(
            path, reason, f"add them to a region, or read them as background: data.label_map={{{found[0]}: 0}}"
        )
    return label.astype(preparation.label_dtype, copy=False)


def read_label_files(case: Case, label_map: LabelMap | None, ignore_label: int | None) -> tuple[np.ndarray, Grid]:
    """Return the case's untouched label (D, H, W) in RAS+, its values mapped, and its grid.

    Of several files, one for each region, of 0 and 1, file k counts 2 ** k; a voxel of `ignore_label` in one of them is
    ignored. Raises FileProblem for other values, and where the files do not share one grid.
    """
    label, grid, _ = read_label(case.label_files[0])
    if len(case.label_files) == 1:
        return map_labels(label, label_map), grid
    combined, ignored = np.zeros(label.shape, np.int32), np.zeros(label.shape, bool)
    for number, path in enumerate(case.label_files):
        label, its_grid, _ = read_label(path)
        _require_same_grid(path, its_grid, case.label_files[0], grid)
        label = map_labels(label, label_map)
        if ignore_label is not None:
            ignored |= label == ignore_label
            label = np.where(label == ignore_label, 0, label)
        if other := sorted(set(np.unique(label).tolist()) - {0, 1}):
            reason = f"label values {', '.join(map(str, other))}, expected 0 and 1"
            raise FileProblem(path, reason, "a file of a region holds 1 inside it; correct it, or map data.label_map")
        combined += label.astype(np.int32) << number
    if ignore_label is not None:
        combined[ignored] = ignore_label
    return combined, grid


def map_labels(label: np.ndarray, label_map: LabelMap | None) -> np.ndarray:
    """Return the label with each value that `label_map` names replaced, all at once; the others stay as they are."""
    if label_map is None:
        return label
    mapped = label.copy() if all(0 <= new <= 255 for _, new in label_map) else label.astype(np.int32)
    for old, new in label_map:
        mapped[label == old] = new
    return mapped


def nonzero_box(volume: np.ndarray) -> tuple[Shape, Shape]:
    """Return (offset, shape) of the smallest box that holds every voxel other than 0 in any channel of (D, H, W, C);
    the whole volume where there is none.
    """
    planes, rows, columns = (np.zeros(n, bool) for n in volume.shape[:3])
    for d, plane in enumerate(volume):  # (H, W, C)
        filled = plane.any(axis=-1)
        planes[d] = filled.any()
        rows |= filled.any(axis=1)
        columns |= filled.any(axis=0)
    ends = [np.flatnonzero(filled) for filled in (planes, rows, columns)]
    if not len(ends[0]):
        return (0, 0, 0), (volume.shape[0], volume.shape[1], volume.shape[2])
    (d, depth), (h, height), (w, width) = ((int(end[0]), int(end[-1] - end[0] + 1)) for end in ends)
    return (d, h, w), (depth, height, width)


def sample_foreground(label: np.ndarray, case_id: str, num_classes: int) -> dict[int, np.ndarray]:
    """Return voxels (n, 3) int32 of each class but background that the label holds, at most MAX_FOREGROUND a class, in
    the order of the array; which ones depends on the case's id alone.
    """
    foreground = {}
    for value in range(1, num_classes):
        found = np.flatnonzero(label == value)
        if len(found) > MAX_FOREGROUND:
            rng = np.random.default_rng([zlib.crc32(case_id.encode()), value])
            found = found[np.sort(rng.choice(len(found), MAX_FOREGROUND, replace=False, shuffle=False))]
        if len(found):
            foreground[value] = np.stack(np.unravel_index(found, label.shape), axis=1).astype(np.int32)
    return foreground


def sample_intensities(case: Case, preparation: Preparation) -> np.ndarray:
    """Return intensities (MAX_FOREGROUND, C) float32, as in the file, of voxels of a training case's foreground.

    They are drawn evenly with replacement, as nnU-Net does: each case counts alike, and within it each voxel, whatever
    its class. None (0, C) where there is no foreground. Raises FileProblem as `prepare` does.
    """
    volume, grid, _ = read_case_image(case, preparation.channels)
    label = read_case_label(case, grid, preparation)
    if label is None:
        return np.zeros((0, volume.shape[-1]), np.float32)
    inside = (label > 0) & (label < preparation.num_classes)
    if preparation.ignore_label is not None:
        inside &= label != preparation.ignore_label
    found = np.flatnonzero(inside)
    if len(found):
        found = np.random.default_rng(zlib.crc32(case.id.encode())).choice(found, MAX_FOREGROUND)
    return volume.reshape(-1, volume.shape[-1])[found]


def _require_same_grid(path: Path, grid: Grid, image: Path, image_grid: Grid) -> None:
    if (reason := grid_mismatch(grid, image_grid, image.name)) is not None:
        what, _, fix = reason.rpartition("; ")
        raise FileProblem(path, what, fix)
