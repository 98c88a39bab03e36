"""What is wrong with a case, by its headers and file sizes, before any volume is read."""

from dataclasses import dataclass
from pathlib import Path

from data.files.errors import fault_of
from data.files.grid import GRID_TOLERANCE_VOXELS, Grid, distance_mm
from data.files.gzip import gzip_problem
from data.files.volumes import FileProblem, Header, read_header
from data.layouts.cases import Case


@dataclass(frozen=True)
class Problem:
    """Why a case cannot be used: `path` is the bad file, `reason` a line on what is wrong and how to fix it."""

    case_id: str
    path: Path
    reason: str

    @classmethod
    def of(cls, case_id: str, fault: FileProblem) -> "Problem":
        """Return the fault of a file of the case as a problem."""
        return cls(case_id, fault.path, f"{fault.reason}; {fault.fix}")


def check_case(case: Case, num_channels: int | None = None) -> list[Problem]:
    """Return all that is wrong with a case as far as headers show; empty for a sound one. Never raises on bad files.

    Beyond each file's own problems: channels on different grids, fewer or more channels than
    `num_channels`, a label of another shape or in another place than its image. Voxels (NaN, class numbers)
    are checked when the case is prepared. A whole .nii.gz is only read where its last bytes are not the
    length that its header promises.
    """
    problems: list[Problem] = []
    headers: list[Header] = []
    for path in case.files:
        try:
            with fault_of(path):
                header = read_header(path)
                packed = gzip_problem(header.voxels_path, header.num_bytes, header.tail_bytes)
                found = header.problems or tuple(filter(None, [packed]))
                problems += [Problem.of(case.id, problem) for problem in found]
                headers.append(header)
        except FileProblem as problem:
            problems.append(Problem.of(case.id, problem))
    if len(headers) < len(case.files):
        return problems
    images, label = headers[: len(case.images)], headers[len(case.images) :]
    for header in headers[1:]:
        if (reason := grid_mismatch(header.grid, images[0].grid, case.images[0].name)) is not None:
            problems.append(Problem(case.id, header.path, reason))
    channels = sum(header.channels for header in images)
    if num_channels is not None and channels != num_channels:
        reason = f"{channels} channels, expected {num_channels} as in the other cases or the model"
        problems.append(Problem(case.id, case.images[0], reason))
    for header in label:
        if header.channels > 1:
            reason = f"label with {header.channels} channels, expected one map of class numbers"
            problems.append(Problem(case.id, header.path, reason))
    return problems


def grid_mismatch(grid: Grid, reference: Grid, name: str) -> str | None:
    """Return why two files cannot be laid over each other, or None where they can."""
    if grid.shape != reference.shape:
        return f"shape {grid.shape} differs from {reference.shape} of {name}; resample one onto the other"
    if not grid.matches(reference):
        apart = distance_mm(grid.affine, reference.affine, grid.shape[::-1])
        return (
            f"affine differs from that of {name}: voxels lie up to {apart:.3g} mm apart, more than "
            f"{GRID_TOLERANCE_VOXELS:g} of a voxel; copy the header of one to the other if the voxels do match"
        )
    return None
