"""Where an array's voxels lie in space, and which file they came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.files.orientation import Orientation, axis_codes

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

# Two grids are one when no voxel centre moves by more than this share of the smaller voxel's shortest
# edge. float32 quaternions and rounded text headers stay under 0.01; a shift of one voxel is far above.
GRID_TOLERANCE_VOXELS = 0.1


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array (D, H, W) in RAS+ lie.

    `affine` (4, 4) float64 maps voxel (i, j, k) to mm; the array's index is [k, j, i]. `shape` is (D, H, W).
    """

    shape: Shape
    affine: np.ndarray

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between voxel centres along (D, H, W)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return k, j, i

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel, also on a sheared grid."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def crop(self, offset_dhw: tuple[int, ...], shape: tuple[int, ...]) -> "Grid":
        """The grid of `array[d : d + D, h : h + H, w : w + W]`; offsets may be negative."""
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ np.array(offset_dhw[::-1], dtype=np.float64)
        return Grid(_triple(shape), affine)

    def pad(self, before_dhw: tuple[int, ...], shape: tuple[int, ...]) -> "Grid":
        """The grid after adding `before_dhw` voxels in front of each axis, `shape` voxels in all."""
        return self.crop(tuple(-n for n in before_dhw), shape)

    def resample(self, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> "Grid":
        """The grid of `shape` voxels at `spacing_mm` whose centre is this grid's centre.

        Voxel n of an axis lies at (n - (new - 1) / 2) * new_spacing / old_spacing + (old - 1) / 2 of this
        grid; where shape × spacing is kept, the outer faces of both coincide.
        """
        scale = np.array(spacing_mm[::-1]) / np.array(self.spacing_mm[::-1])  # along i, j, k
        old = np.array(self.shape[::-1], dtype=np.float64)
        new = np.array(shape[::-1], dtype=np.float64)
        to_old = np.eye(4)
        to_old[:3, :3] = np.diag(scale)
        to_old[:3, 3] = (old - 1) / 2 - (new - 1) / 2 * scale
        return Grid(_triple(shape), self.affine @ to_old)

    def matches(self, other: "Grid") -> bool:
        """Same shape, and the same place within GRID_TOLERANCE_VOXELS."""
        if self.shape != other.shape:
            return False
        return affines_agree(self.affine, other.affine, self.shape[::-1])

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; floats survive exactly."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Grid":
        """Undoes `to_json`."""
        return cls(_triple(facts["shape"]), np.array(facts["affine"], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Source:
    """The file an array came from, with all that is needed to write another on the same grid.

    `shape` is in the file's own axes (i, j, k), `affine` (4, 4) maps its voxels to mm, and `header` is the
    file's header block, native endianness, as sform, qform and units are kept there (empty for other formats).
    `format` tells formats, and kinds of one, apart where they are written.
    """

    path: Path
    format: str
    shape: Shape
    affine: np.ndarray
    header: bytes = b""

    @property
    def orientation(self) -> Orientation:
        """The swaps and flips between the file's axes and RAS+."""
        return Orientation.of(self.affine)

    @property
    def axis_codes(self) -> str:
        """The file's own orientation, as in `LPS`."""
        return axis_codes(self.affine)

    @property
    def grid(self) -> Grid:
        """The RAS+ grid of the array that reading this file gives."""
        orientation = self.orientation
        i, j, k = (self.shape[axis] for axis in orientation.axes)
        return Grid((k, j, i), orientation.ras_affine(self.affine, self.shape))

    def in_file_axes(self, array: np.ndarray) -> np.ndarray:
        """Return (D, H, W, ...) in RAS+ in the file's own axes: NIfTI's (i, j, k), NumPy's (k, j, i). A view."""
        stored = self.orientation.from_dhw(array)
        return stored.swapaxes(0, 2) if self.format == "numpy" else stored

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives the same source back, bit for bit."""
        return {
            "path": str(self.path),
            "format": self.format,
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "header": self.header.hex(),
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Source":
        """Undoes `to_json`."""
        affine = np.array(facts["affine"], dtype=np.float64)
        header = bytes.fromhex(facts["header"])
        return cls(Path(facts["path"]), facts["format"], _triple(facts["shape"]), affine, header)


def distance_mm(first: np.ndarray, second: np.ndarray, shape_ijk: tuple[int, ...]) -> float:
    """How far apart two affines place the same voxel, at worst, over a grid of `shape_ijk` voxels."""
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in shape_ijk], indexing="ij")).reshape(3, -1)
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    moved = difference[:3, :3] @ corners + difference[:3, 3:]  # affine: the worst voxel is a corner
    return float(np.linalg.norm(moved, axis=0).max())


def affines_agree(first: np.ndarray, second: np.ndarray, shape_ijk: tuple[int, ...]) -> bool:
    """Whether no voxel lies further apart than GRID_TOLERANCE_VOXELS under two affines."""
    edges = [np.linalg.norm(affine[:3, :3], axis=0).min() for affine in (first, second)]
    return distance_mm(first, second, shape_ijk) <= GRID_TOLERANCE_VOXELS * min(edges)


def _triple(values: tuple[int, ...] | list[int]) -> Shape:
    first, second, third = (int(value) for value in values)
    return first, second, third
