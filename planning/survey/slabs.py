"""Volumes too large to be held in memory: what they hold, read a few slices at a time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from data.files.errors import FileProblem
from data.files.formats.registry import find_format
from data.files.grid import Shape
from data.files.header import Header
from data.files.volumes import check_label_range, finite_problem, scaled, whole_labels

SLAB_BYTES = 8 << 20  # of the file's voxels in memory at a time, or one slice
MAX_VALUES = 1 << 16  # different values of a label
SAMPLE = 1 << 20  # voxels of a channel that its percentiles are taken from


@dataclass(frozen=True)
class Channel:
    """Intensities of one channel of a case, scale factors applied; percentiles 0.5 and 99.5, of a sample."""

    low: float
    percentile_low: float
    mean: float
    percentile_high: float
    high: float


@dataclass(frozen=True, eq=False)
class Measured:
    """What an image's voxels show. `box` is that of the voxels other than 0."""

    channels: tuple[Channel, ...]
    box: Shape
    digest: str


def measure_image(header: Header) -> tuple[Measured, np.ndarray]:
    """Return what an image of a format with slabs holds, read once, and its middle slice (1, H, W).

    Raises FileProblem, for NaN and infinite voxels too.

    The digest is of the voxels in the file's own order: a copy with other axes, or held whole, has another.
    """
    source, size = header.source, int(np.prod(header.shape))
    step, middle = max(1, size // SAMPLE), _Middle(header, np.float32)
    filled = [np.zeros(n, bool) for n in source.shape[::-1]]  # along k, j, i
    digest = blake2b(f"{source.shape} {source.axis_codes} {header.channels}".encode(), digest_size=16)
    ends: list[list[tuple[float, float, float]]] = [[] for _ in range(header.channels)]  # lowest, highest, sum of slabs
    samples: list[list[np.ndarray]] = [[] for _ in range(header.channels)]
    nans = infinite = 0
    for channel, start, stored in _read_slabs(header):
        voxels = scaled(stored, header)  # (k, j, i)
        digest.update(voxels.data)
        if not np.isfinite(voxels).all():
            nans += int(np.count_nonzero(np.isnan(voxels)))
            infinite += int(np.count_nonzero(np.isinf(voxels)))
            continue
        ends[channel].append((float(voxels.min()), float(voxels.max()), float(voxels.sum(dtype=np.float64))))
        samples[channel].append(voxels.reshape(-1)[-start * voxels[0].size % step :: step].copy())
        filled[0][start : start + len(voxels)] |= voxels.any(axis=(1, 2))
        filled[1] |= voxels.any(axis=(0, 2))
        filled[2] |= voxels.any(axis=(0, 1))
        if channel == 0:
            middle.take(start, voxels)
    if nans or infinite:
        raise finite_problem(header.path, nans, infinite, size * header.channels)
    channels = []
    for slabs, parts in zip(ends, samples, strict=True):
        lows, highs, sums = zip(*slabs, strict=True)
        low, high = np.percentile(np.concatenate(parts), (0.5, 99.5)).tolist()
        channels.append(Channel(min(lows), low, sum(sums) / size, high, max(highs)))
    extent = [int(np.ptp(places)) + 1 if len(places := np.flatnonzero(axis)) else len(axis) for axis in filled[::-1]]
    i, j, k = (extent[axis] for axis in source.orientation.axes)
    return Measured(tuple(channels), (k, j, i), digest.hexdigest()), middle.plane()


def _read_slabs(header: Header) -> Iterator[tuple[int, int, np.ndarray]]:
    known = find_format(header.path)
    assert known is not None
    assert known.read_slabs is not None
    return known.read_slabs(header, SLAB_BYTES)


def count_label(header: Header) -> tuple[dict[int, int], np.ndarray]:
    """Return the voxels of each value of a label, read once, and its middle slice (1, H, W). Raises FileProblem."""
    found: Counter[float] = Counter()
    middle = _Middle(header, np.float64)
    for _, start, stored in _read_slabs(header):
        values, counts = np.unique(stored, return_counts=True)
        found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(found) > MAX_VALUES:
            reason = f"more than {MAX_VALUES} different label values"
            raise FileProblem(header.path, reason, "is it an image? name the label volume")
        middle.take(start, stored)
    stored_values = np.array(list(found), dtype=np.float64)
    values = whole_labels(header, stored_values, np.array(list(found.values())))
    check_label_range(header.path, int(values.min()), int(values.max()))
    plane = np.rint(middle.plane() * header.slope + header.inter).astype(np.int64)
    return {int(value): count for value, count in zip(values, found.values(), strict=True)}, plane


class _Middle:
    """The middle slice along D, picked from slabs."""

    def __init__(self, header: Header, dtype: type) -> None:
        self._orientation = header.source.orientation
        self._axis = 2 - self._orientation.axes[2]  # of (k, j, i)
        shape = list(header.source.shape[::-1])
        index = header.shape[0] // 2
        self._index = shape[self._axis] - 1 - index if self._orientation.flips[2] else index
        shape[self._axis] = 1
        self._slice: np.ndarray = np.zeros(shape, dtype)

    def take(self, start: int, slab: np.ndarray) -> None:
        """Keep what a slab (k, j, i) holds of it."""
        if self._axis == 0:
            if 0 <= self._index - start < len(slab):
                self._slice[0] = slab[self._index - start]
        else:
            self._slice[start : start + len(slab)] = slab.take([self._index], axis=self._axis)

    def plane(self) -> np.ndarray:
        """Return (1, H, W) in RAS+."""
        return self._orientation.to_dhw(self._slice.transpose(2, 1, 0))
