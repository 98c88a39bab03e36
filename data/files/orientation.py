"""How a file's axes lie in the body, and how to bring them to RAS+ without touching a voxel."""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation

Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Orientation:
    """RAS+ axis r is the file's axis `axes[r]`, run backwards where `flips[r]`."""

    axes: Axes
    flips: Flips

    @classmethod
    def of(cls, affine: np.ndarray) -> "Orientation":
        """The swaps and flips that bring a voxel → mm affine (4, 4) nearest to RAS+; obliquity is left alone."""
        axes, flips = [0, 0, 0], [False, False, False]
        for file_axis, (ras_axis, direction) in enumerate(io_orientation(affine)):
            axes[int(ras_axis)] = file_axis
            flips[int(ras_axis)] = direction < 0
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    def to_dhw(self, array: np.ndarray) -> np.ndarray:
        """A view (D, H, W, ...) in RAS+ of an array (i, j, k, ...) in the file's axes."""
        rest = range(3, array.ndim)
        ras = array.transpose(*self.axes, *rest)[self._slices()]
        return ras.transpose(2, 1, 0, *rest)

    def from_dhw(self, array: np.ndarray) -> np.ndarray:
        """A view (i, j, k, ...) in the file's axes of an array (D, H, W, ...) in RAS+: undoes `to_dhw`."""
        rest = range(3, array.ndim)
        ras = array.transpose(2, 1, 0, *rest)[self._slices()]
        return ras.transpose(*np.argsort(self.axes).tolist(), *rest)

    def ras_affine(self, affine: np.ndarray, shape_ijk: Axes) -> np.ndarray:
        """The affine (4, 4) of the array after `to_dhw`, from RAS+ voxel (i, j, k) to mm."""
        to_file = np.zeros((4, 4))  # RAS+ voxel -> the file's voxel
        to_file[3, 3] = 1
        for ras_axis, (file_axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_file[file_axis, ras_axis] = -1 if flip else 1
            to_file[file_axis, 3] = shape_ijk[file_axis] - 1 if flip else 0
        return affine @ to_file

    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)


def axis_codes(affine: np.ndarray) -> str:
    """Where the file's axes point, as in `LPS`: first axis to the left, second posterior, third superior."""
    return "".join(aff2axcodes(affine))
