"""What one case's files hold, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.files.grid import Grid, Shape, Spacing
from data.files.volumes import FileProblem, Header, read_header, read_image, read_label, require_classes, require_finite
from data.layouts.cases import Case, LabelledCase
from data.prepare.case_checks import Problem, check_case
from data.prepare.copies import voxel_digest
from data.prepare.volumes import nonzero_box
from planning.survey.thumbnails import draw_thumbnail

_SAMPLE = 1 << 20  # voxels of a channel that its percentiles are taken from


@dataclass(frozen=True)
class Channel:
    """Intensities of one channel of a case, scale factors applied; percentiles 0.5 and 99.5, of a sample."""

    low: float
    percentile_low: float
    mean: float
    percentile_high: float
    high: float


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What a case's files hold. `grid` is None where no header could be read, `voxels` where no voxel could.

    `labels` are the voxels of each label value; None for an unlabelled case or a label that cannot be used.
    """

    case: Case | LabelledCase  # of a case with a class, `labels` is None
    grid: Grid | None = None  # in RAS+
    orientation: str = ""  # of the file
    dtype: str = ""  # as stored
    label_dtype: str = ""
    num_channels: int = 0
    voxels: tuple[Channel, ...] | None = None
    box: Shape | None = None  # of the voxels other than 0
    digest: str = ""  # of the voxels in RAS+
    labels: dict[int, int] | None = None
    thumbnail: bytes | None = None  # JPEG
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether preparing the case would succeed."""
        return self.voxels is not None and not self.problems

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


def scan_of(case: Case | LabelledCase) -> Case:
    """The files of a case, whatever its task."""
    return case if case.label_file is not None else replace(case, label=None)


def read_headers(case: Case | LabelledCase) -> CaseFacts:
    """What the headers say, as far as they can be read, and what is wrong with them."""
    scan = scan_of(case)
    facts = CaseFacts(case, problems=tuple(check_case(scan)))
    try:
        headers = [read_header(path) for path in scan.images]
        label = read_header(scan.label_file) if scan.label_file else None
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
    )


def read_voxels(
    facts: CaseFacts, class_names: Sequence[str] | None, ignore_label: int | None = None, thumbnail: bool = False
) -> CaseFacts:
    """The facts with what the voxels tell, each file's first fault among the problems.

    Label values must be those of `class_names`, where these are known, or `ignore_label`.
    """
    case, problems = scan_of(facts.case), list(facts.problems)
    channels: list[Channel] = []
    digests, box, plane = [], (0, 0, 0), None
    label: np.ndarray | None = None
    counts: dict[int, int] | None = None
    try:
        if case.label_file is not None:
            label, _, _ = read_label(case.label_file)
            counts = _count(label)
            if class_names is not None:
                require_classes(label, len(class_names), case.label_file, ignore_label)
    except FileProblem as problem:
        problems.append(_problem(case.id, problem))
    for number, path in enumerate(case.images):
        try:
            volume, grid, _ = read_image(path)
            require_finite(volume, path)
        except FileProblem as problem:
            problems.append(_problem(case.id, problem))
            continue
        digests.append(voxel_digest(volume))
        channels += [_measure(volume[..., channel]) for channel in range(volume.shape[-1])]
        _, (d, h, w) = nonzero_box(volume)
        box = (max(box[0], d), max(box[1], h), max(box[2], w))
        if thumbnail and number == 0:
            plane = draw_thumbnail(volume[..., 0], label, grid.spacing_mm)
    complete = len(channels) == facts.num_channels
    return replace(
        facts,
        voxels=tuple(channels) if complete else None,
        box=box if complete else None,
        digest=" ".join(digests) if complete else "",
        labels=counts,
        thumbnail=plane,
        problems=tuple(problems),
    )


def read_row(case: LabelledCase, row: np.ndarray, thumbnail: bool = False) -> CaseFacts:
    """The facts of a case that is a row (D, H, W) or (D, H, W, C) of an array, without a place in space."""
    d, h, w = row.shape[:3]
    facts = CaseFacts(case, Grid((d, h, w), np.eye(4)), dtype=row.dtype.name)
    volume = row.reshape(d, h, w, -1).astype(np.float32)
    try:
        require_finite(volume, case.images[0])
    except FileProblem as problem:
        return replace(facts, num_channels=volume.shape[-1], problems=(_problem(case.id, problem),))
    return replace(
        facts,
        num_channels=volume.shape[-1],
        voxels=tuple(_measure(volume[..., channel]) for channel in range(volume.shape[-1])),
        box=nonzero_box(volume)[1],
        digest=voxel_digest(volume),
        thumbnail=draw_thumbnail(volume[..., 0], None, facts.spacing_mm) if thumbnail else None,
    )


def _measure(voxels: np.ndarray) -> Channel:
    """The intensities of one channel (D, H, W)."""
    flat = voxels.reshape(-1)
    sample = flat[:: max(1, len(flat) // _SAMPLE)]
    low, high = np.percentile(sample, (0.5, 99.5))
    mean = flat.mean(dtype=np.float64)
    return Channel(float(flat.min()), float(low), float(mean), float(high), float(flat.max()))


def _count(label: np.ndarray) -> dict[int, int]:
    """Voxels of each value of a label."""
    if label.dtype == np.uint8:
        counts = np.bincount(label.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _problem(case_id: str, problem: FileProblem) -> Problem:
    return Problem(case_id, problem.path, f"{problem.reason}; {problem.mend}")
