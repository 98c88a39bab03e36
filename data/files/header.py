"""What a file's header says, and what it says that rules the file out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.files.errors import FileProblem
from data.files.grid import Grid, Source, Spacing
from data.files.gzip import TRAILING_BYTES, size_problem

CONVERT = "convert it to a scalar 3-D or 4-D volume"
# Voxel edges and distances from the origin beyond these are damage, and would overflow in what follows.
EDGE_RANGE_MM = (1e-9, 1e6)
MAX_PLACE_MM = 1e9


@dataclass(frozen=True, eq=False)
class Header:
    """Facts of a file, known without its voxels.

    `dtype` is as stored, byte order included. A stored value v stands for v * `slope` + `inter`. `problems`
    is empty for a file that can be read; otherwise reading raises the first of them.
    """

    source: Source
    channels: int
    dtype: np.dtype
    slope: float
    inter: float
    voxels_path: Path  # another file than the header's for Analyze and NIfTI pairs
    voxels_offset: int  # bytes before the first voxel
    problems: tuple[FileProblem, ...]
    tail_bytes: int = TRAILING_BYTES  # that may follow the last voxel
    modality: str = ""  # as DICOM has it: CT, MR
    ignored: Mapping[str, int] = field(default_factory=dict)  # files beside a series' images, by what they are

    @property
    def path(self) -> Path:
        """The file asked for."""
        return self.source.path

    @property
    def grid(self) -> Grid:
        """The RAS+ grid that reading the file gives."""
        return self.source.grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) in RAS+."""
        return self.grid.shape

    @property
    def spacing_mm(self) -> Spacing:
        """Along (D, H, W) in RAS+."""
        return self.grid.spacing_mm

    @property
    def orientation(self) -> str:
        """Where the file's own axes point, as in `LPS`."""
        return self.source.axis_codes

    @property
    def scaled(self) -> bool:
        """Whether stored values and true values differ."""
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def num_bytes(self) -> int:
        """Bytes of content up to the last voxel, as promised."""
        return self.voxels_offset + math.prod(self.source.shape) * self.channels * self.dtype.itemsize


def split_channels(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """A file's shape as ((i, j, k), channels); raises FileProblem for what is not a volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])  # NIfTI vectors: (i, j, k, 1, C)
    said = "×".join(map(str, shape))
    if min(shape, default=0) < 1:
        raise FileProblem(path, f"no voxels (shape {said})", CONVERT)
    if len(shape) < 3 or 1 in shape[:3]:
        axes = sum(size > 1 for size in shape[:3])
        fix = "stack the slices of one patient into a volume; single 2-D images are not for this template"
        fix = fix if axes == 2 else CONVERT
        raise FileProblem(path, f"{axes}-D data (shape {said}), expected a volume", fix)
    if len(shape) > 4:
        raise FileProblem(path, f"{len(shape)}-D data (shape {said}), expected 3-D or 4-D", CONVERT)
    return (shape[0], shape[1], shape[2]), shape[3] if len(shape) == 4 else 1


def dtype_problem(path: Path, dtype: np.dtype) -> FileProblem | None:
    """RGB and complex voxels, and whatever else is no number."""
    if dtype.names is not None:
        return FileProblem(path, f"RGB data ({len(dtype.names)} values a voxel), expected scalars", CONVERT)
    if dtype.kind == "c":
        return FileProblem(path, f"complex data ({dtype.name}), expected real scalars", "store the magnitude")
    if dtype.kind not in "buif":
        return FileProblem(path, f"voxels of type {dtype}, expected numbers", CONVERT)
    return None


def affine_problem(path: Path, affine: np.ndarray) -> FileProblem | None:
    """An affine that places voxels nowhere: NaN, or all of them in one plane."""
    fix = "set the voxel sizes and directions (NIfTI: the sform) in its header"
    if not np.isfinite(affine).all():
        return FileProblem(path, "the affine holds NaN or infinite values", fix)
    if (largest := np.abs(affine).max()) > MAX_PLACE_MM:
        return FileProblem(path, f"the affine holds a value of {largest:.3g}", fix)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        rounded = " × ".join(f"{length:g}" for length in lengths)
        return FileProblem(path, f"the affine has no inverse (voxel edges {rounded} mm)", fix)
    if lengths.min() < EDGE_RANGE_MM[0] or lengths.max() > EDGE_RANGE_MM[1]:
        rounded = " × ".join(f"{length:.3g}" for length in lengths)
        return FileProblem(path, f"voxel edges of {rounded} mm", fix)
    return None


def voxel_problems(header: Header) -> tuple[FileProblem, ...]:
    """What keeps the voxels from being read, found without reading them."""
    found = [
        dtype_problem(header.path, header.dtype),
        size_problem(header.voxels_path, header.num_bytes, header.tail_bytes),
    ]
    return tuple(problem for problem in found if problem is not None)
