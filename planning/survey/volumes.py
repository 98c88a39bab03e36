"""Cases that are volumes: what their files hold, and what is wrong with them."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from data.files.errors import fault_of
from data.files.formats.npy import read_member
from data.files.formats.registry import find_format
from data.files.grid import Grid, Shape, Spacing
from data.files.volumes import FileProblem, Header, read_header, read_image, read_label, require_counted, require_finite
from data.layouts.cases import Case
from data.prepare.case_checks import Problem, check_case
from data.prepare.copies import voxel_digest
from data.prepare.volumes import LabelMap, map_labels, nonzero_box, read_label_files
from planning.survey.facts import Facts, Finding, Kind, Metadata, Reading, ids_of
from planning.survey.format import axes, counted, times
from planning.survey.slabs import SAMPLE, Channel, Measured, count_label, measure_image
from planning.survey.thumbnails import draw_thumbnail

SPACING_TOLERANCE = 0.01  # relative: scanners and headers round
_WHOLE_BYTES = 1 << 28  # of float32 voxels: a larger volume is never held whole


@dataclass(frozen=True, eq=False)
class VolumeFacts(Facts):
    """What a case's volumes hold. `grid` is None where no header can be read, `voxels` where an image cannot.

    `labels` are the voxels of each value of its label volume, `train_labels` those of the one to train on, where that
    is another; None where there is none that can be read.
    """

    grid: Grid | None = None  # in RAS+
    orientation: str = ""  # of the file; a row of an array has none
    dtype: str = ""  # as stored
    label_dtype: str = ""
    num_channels: int = 0
    voxels: tuple[Channel, ...] | None = None
    modalities: tuple[str, ...] = ()  # of each image, "" where its file does not say
    ignored: tuple[tuple[str, int], ...] = ()  # files beside DICOM images, by what they are
    box: Shape | None = None  # of the voxels other than 0
    labels: dict[int, int] | None = None
    train_labels: dict[int, int] | None = None

    @property
    def shape(self) -> Shape:
        """(D, H, W) in RAS+."""
        assert self.grid is not None
        return self.grid.shape

    @property
    def spacing_mm(self) -> Spacing:
        """Along (D, H, W) in RAS+."""
        assert self.grid is not None
        return self.grid.spacing_mm

    def describe(self) -> str:
        """Return a line on the case: shape, spacing, orientation, type and intensities."""
        if self.grid is None:
            return "no header that can be read"
        parts = [f"{times(self.shape)} voxels"]
        if self.orientation:
            parts += [f"{times(self.spacing_mm)} mm", self.orientation]
        parts.append(self.dtype)
        if self.voxels:
            low, high = min(channel.low for channel in self.voxels), max(channel.high for channel in self.voxels)
            parts.append(f"{low:.4g} … {high:.4g}")
        return ", ".join(parts)

    def oddities(self) -> list[str]:
        return [
            f"channel {number} is constant ({channel.low:g}); is it the right file?"
            for number, channel in enumerate(self.voxels or ())
            if channel.low == channel.high
        ]

    def metadata(self) -> Metadata:
        if not self.orientation:
            return {}
        sizes = {f"size along {axis}": float(n) for axis, n in zip("DHW", self.shape, strict=True)}
        spacings = {f"spacing along {axis}": round(mm, 3) for axis, mm in zip("DHW", self.spacing_mm, strict=True)}
        return {**sizes, **spacings, "orientation": self.orientation, "stored type": self.dtype}


def read_volumes(
    cases: Sequence[Case],
    how: Reading,
    num_values: int | None = None,
    ignore_label: int | None = None,
    label_map: Mapping[int, int] | None = None,
) -> list[VolumeFacts]:
    """Read what the cases' files hold; a case with another number of channels than most has a problem.

    So has one with label values, mapped by `label_map`, other than 0 to `num_values` - 1, where that is known, and
    `ignore_label`.
    """
    found = {case.id: _read_headers(case) for case in cases}
    usual = Counter(facts.num_channels for facts in found.values() if not facts.problems).most_common(1)
    for case_id, facts in found.items():
        if not facts.problems and facts.num_channels != usual[0][0]:
            found[case_id] = replace(facts, problems=tuple(check_case(facts.case, usual[0][0])))
    sound = [facts for facts in found.values() if not facts.problems]
    largest = max(map(_bytes_to_read, sound), default=1)
    mapped = None if label_map is None else tuple(label_map.items())
    read = partial(
        _read_case, num_values=num_values, ignore_label=ignore_label, label_map=mapped, thumbnail=how.thumbnails
    )
    found |= {facts.case.id: facts for facts in how.each(read, sound, largest)}
    return list(found.values())


def read_rows(cases: Sequence[Case], how: Reading) -> list[VolumeFacts]:
    """Read what an archive's rows (D, H, W) or (D, H, W, C) hold, with one of its arrays in memory at a time."""

    def read() -> Iterator[VolumeFacts]:
        for (path, name), members in groupby(cases, key=lambda case: (case.images[0], (case.member or ("", 0))[0])):
            array = read_member(path, name)
            for case in members:
                assert case.member is not None
                yield _read_row(case, array[case.member[1]], how.thumbnails)

    return how.count(read(), len(cases))


def _read_headers(case: Case) -> VolumeFacts:
    """Return the case's facts from its headers, as far as these can be read, with what is wrong with them."""
    facts = VolumeFacts(case, tuple(check_case(case)))
    try:
        headers = [read_header(path) for path in case.images]
        label = read_header(case.label_files[0]) if case.label_files else None
    except FileProblem:
        return facts  # among the problems already
    first: Header = headers[0]
    return replace(
        facts,
        grid=first.grid,
        orientation=first.orientation,
        dtype=first.dtype.name,
        label_dtype=label.dtype.name if label else "",
        num_channels=sum(header.channels for header in headers),
        modalities=tuple(header.modality for header in headers),
        ignored=tuple((kind, count) for header in headers for kind, count in header.ignored.items()),
    )


def _read_case(
    facts: VolumeFacts, num_values: int | None, ignore_label: int | None, label_map: LabelMap | None, thumbnail: bool
) -> VolumeFacts:
    """Return the facts with what the voxels of label and images show."""
    case, label = facts.case, None
    try:
        if case.label_file is not None:
            with fault_of(case.label_file):
                counts, label = _read_labels(case, ignore_label, label_map)
                facts = replace(facts, labels=counts)
                if num_values is not None:
                    require_counted(counts, num_values, case.label_file, ignore_label)
        if (path := case.to_train_on().label_file) != case.label_file and path is not None:
            with fault_of(path):
                facts = replace(facts, train_labels=_read_label(path)[0])
    except FileProblem as problem:
        facts = replace(facts, problems=(*facts.problems, Problem.of(case.id, problem)))
    return _measure_images(facts, _read_image, label, thumbnail)


def _read_row(case: Case, row: np.ndarray, thumbnail: bool) -> VolumeFacts:
    """Return the facts of a row (D, H, W) or (D, H, W, C) of an array, which has no place in space."""
    (d, h, w), num_channels = row.shape[:3], math.prod(row.shape[3:])
    facts = VolumeFacts(case, grid=Grid((d, h, w), np.eye(4)), dtype=row.dtype.name, num_channels=num_channels)

    def read(path: Path) -> tuple[Measured, np.ndarray]:
        return _measure_volume(row.reshape(d, h, w, num_channels).astype(np.float32), path)

    return _measure_images(facts, read, None, thumbnail)


def _measure_images(
    facts: VolumeFacts, read: Callable[[Path], tuple[Measured, np.ndarray]], label: np.ndarray | None, thumbnail: bool
) -> VolumeFacts:
    """Return the facts with what `read` returns of each of the case's images.

    The first fault of each image is among the problems; with one, there are no `voxels`, `box` and `digest`.
    """
    problems, images = list(facts.problems), []
    for path in facts.case.images:
        try:
            with fault_of(path):
                image, shown = read(path)
                if thumbnail and path == facts.case.images[0]:
                    facts = replace(facts, thumbnail=draw_thumbnail(shown, label, facts.spacing_mm))
                del shown  # before the next channel is read
                images.append(image)
        except FileProblem as problem:
            problems.append(Problem.of(facts.case.id, problem))
    facts = replace(facts, problems=tuple(problems))
    if len(images) < len(facts.case.images):
        return facts
    d, h, w = np.max([image.box for image in images], axis=0).tolist()
    return replace(
        facts,
        voxels=tuple(channel for image in images for channel in image.channels),
        box=(d, h, w),
        digest=" ".join(image.digest for image in images),
    )


def _read_image(path: Path) -> tuple[Measured, np.ndarray]:
    """Return what an image's voxels show, and its first channel (D, H, W), of a large one a slice (1, H, W)."""
    header = read_header(path)
    return measure_image(header) if _is_large(header) else _measure_volume(read_image(path)[0], path)


def _measure_volume(volume: np.ndarray, path: Path) -> tuple[Measured, np.ndarray]:
    """Return what an image's voxels (D, H, W, C) show, and its first channel (D, H, W)."""
    require_finite(volume, path)
    channels = tuple(_measure(volume[..., channel]) for channel in range(volume.shape[-1]))
    return Measured(channels, nonzero_box(volume)[1], voxel_digest(volume)), volume[..., 0]


def _read_labels(case: Case, ignore_label: int | None, label_map: LabelMap | None) -> tuple[dict[int, int], np.ndarray]:
    """Return what `_read_label` does, of a file for each region as one volume."""
    if len(case.label_files) == 1:
        return _read_label(case.label_files[0], label_map)
    label, _ = read_label_files(case, label_map, ignore_label)
    return _count(label), label


def _read_label(path: Path, label_map: LabelMap | None = None) -> tuple[dict[int, int], np.ndarray]:
    """Return the voxels of each mapped value of a label, and the label (D, H, W), of a large one a slice (1, H, W)."""
    header = read_header(path)
    if _is_large(header) and header.channels == 1:
        counts, plane = count_label(header)
        total: Counter[int] = Counter()
        for value, count in counts.items():
            total[dict(label_map or ()).get(value, value)] += count
        return dict(total), map_labels(plane, label_map)
    label = map_labels(read_label(path)[0], label_map)
    return _count(label), label


def _is_large(header: Header) -> bool:
    return _comes_in_slabs(header.path) and 4 * math.prod(header.shape) * header.channels > _WHOLE_BYTES


def _bytes_to_read(facts: VolumeFacts) -> int:
    whole = 4 * math.prod(facts.shape) * (facts.num_channels + 2)
    return min(whole, 3 * _WHOLE_BYTES) if all(map(_comes_in_slabs, facts.case.files)) else whole


def _comes_in_slabs(path: Path) -> bool:
    known = find_format(path)
    return known is not None and known.read_slabs is not None


def tabulate(cases: Sequence[VolumeFacts], channel_names: Sequence[str] | None) -> list[tuple[str, str]]:
    """Return (what, value) rows on the whole data set; shapes and spacings are along (D, H, W) in RAS+."""
    cases = [facts for facts in cases if facts.grid is not None]
    if not cases:
        return []
    names = f": {', '.join(channel_names)}" if channel_names else ""
    found = [
        ("channels", counted(Counter(facts.num_channels for facts in cases)) + names),
        ("shape", axes([facts.shape for facts in cases], "voxels")),
    ]
    if orientations := Counter(facts.orientation for facts in cases if facts.orientation):
        found.append(("spacing", axes([facts.spacing_mm for facts in cases], "mm")))
        found.append(("orientation", counted(orientations)))
    found.append(("stored as", counted(Counter(facts.dtype for facts in cases))))
    if labels := Counter(facts.label_dtype for facts in cases if facts.label_dtype):
        found.append(("labels as", counted(labels)))
    if weak := [facts.train_labels for facts in cases if facts.train_labels is not None]:
        found.append(("to train on", f"labels of {len(weak)} cases, {_shares(weak)}"))
    if ignored := sum((Counter(dict(facts.ignored)) for facts in cases), Counter[str]()):
        found.append(("ignored", ", ".join(f"{kind} ({count} files)" for kind, count in ignored.items())))
    return found + _intensities([facts.voxels for facts in cases if facts.voxels])


def _shares(labels: Sequence[Mapping[int, int]]) -> str:
    """Return each value of some labels with its share of their voxels."""
    voxels: Counter[int] = Counter()
    for counts in labels:
        voxels.update(counts)
    return ", ".join(f"{value} ({100 * count / voxels.total():.2g} %)" for value, count in sorted(voxels.items()))


def agreed_modalities(cases: Sequence[VolumeFacts]) -> tuple[str, ...] | None:
    """Return the modality of each image of a case, where files say it and all say the same."""
    found = {facts.modalities for facts in cases if facts.usable}
    names = found.pop() if len(found) == 1 else ()
    return names if names and all(names) else None


def _intensities(read: Sequence[tuple[Channel, ...]]) -> list[tuple[str, str]]:
    """Return a row for each channel: the range over all cases, and the usual range of one."""
    found = []
    for number in range(min(map(len, read), default=0)):
        channels = [voxels[number] for voxels in read]
        low, high = min(channel.low for channel in channels), max(channel.high for channel in channels)
        keys = ("percentile_low", "mean", "percentile_high")
        first, mean, last = (float(np.median([getattr(channel, key) for channel in channels])) for key in keys)
        value = f"{low:.4g} … {high:.4g}; in the median case mean {mean:.4g}, 99 % in {first:.4g} … {last:.4g}"
        found.append(("intensity" if number == 0 else f"  channel {number}", value))
    return found


def _find_differences(cases: Sequence[VolumeFacts]) -> Iterator[Finding]:
    """Find mixed orientations and spacings."""
    readable = [facts for facts in cases if facts.grid is not None]
    counts = Counter(facts.orientation for facts in readable).most_common()
    if len(counts) > 1:
        said = ", ".join(f"{orientation} {count}" for orientation, count in counts)
        odd = [facts for facts in readable if facts.orientation != counts[0][0]]
        text = f"mixed orientations ({said}): all are read as RAS+, so check that these headers are right"
        yield Finding(text, ids_of(odd), "most cases have another orientation")
    spacings = [facts.spacing_mm for facts in readable]
    usual = np.median(spacings, axis=0) if readable else np.ones(3)
    differ = [facts for facts in readable if np.any(np.abs(facts.spacing_mm / usual - 1) > SPACING_TOLERANCE)]
    if differ:
        ranges = [(axis, min(mm), max(mm)) for axis, mm in zip("DHW", zip(*spacings, strict=True), strict=True)]
        wide = [(axis, low, high) for axis, low, high in ranges if high > low * (1 + SPACING_TOLERANCE)]
        said = ", ".join(f"{axis} {low:.3g}–{high:.3g} mm" for axis, low, high in wide)
        text = f"mixed spacings ({said}): set data.spacing_mm, so that all are resampled to one"
        yield Finding(text, ids_of(differ), f"the median spacing is {times(usual)} mm")


def _measure(voxels: np.ndarray) -> Channel:
    """Return the intensities of one channel (D, H, W)."""
    flat = voxels.reshape(-1)
    sample = flat[:: max(1, len(flat) // SAMPLE)]
    low, high = np.percentile(sample, (0.5, 99.5))
    mean = flat.mean(dtype=np.float64)
    return Channel(float(flat.min()), float(low), float(mean), float(high), float(flat.max()))


def _count(label: np.ndarray) -> dict[int, int]:
    """Return the voxels of each value of a label."""
    if label.dtype == np.uint8:
        counts = np.bincount(label.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


VOLUMES = Kind(
    "volumes", "voxels", "axial slice", "The middle axial slice. Anterior is up, left is left.",
    read_volumes, tabulate, _find_differences,
)  # fmt: skip
ROWS = replace(VOLUMES, view="The middle plane along D; H runs upwards, W to the right.", read=read_rows)
