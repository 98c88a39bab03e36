"""Where a patch's voxels come from: flips, rotation, scaling and elastic deformation in one interpolation."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.files.grid import Shape, Spacing
from data.prepare.crop import crop, label_dtype


@dataclass(frozen=True)
class Cut:
    """One patch's place in a volume, with its spatial augmentation; image and labels are cut alike."""

    offset: Shape
    size: Shape
    flips: tuple[int, ...] = ()
    sampler: "LinearSampler | None" = None  # None: the cut lies on the voxel grid and copies it

    def image(self, volume: np.ndarray) -> np.ndarray:
        """Return the patch (d, h, w, C) float32 of volume (D, H, W, C), 0 outside of it."""
        if self.sampler is not None:
            return self._flipped(self.sampler.image(volume))
        return self._flipped(crop(volume, self.offset, self.size, np.float32))

    def labels(self, label: np.ndarray) -> np.ndarray:
        """Return the patch (d, h, w) of label (D, H, W), 0 outside of it; uint8 stays, else int32."""
        if self.sampler is not None:
            return self._flipped(self.sampler.labels(label))
        return self._flipped(crop(label, self.offset, self.size, label_dtype(label)))

    def _flipped(self, patch: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.flip(patch, self.flips)) if self.flips else patch


def rotation_scaling(degrees: np.ndarray, factors: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return the (3, 3) matrix from offsets in the patch to offsets in the volume, both in voxels from its centre.

    The patch shows the volume enlarged by `factors`, then turned by `degrees` about W, then H, then D. It
    turns in millimetres, so that it stays a rotation on anisotropic voxels. Positive angles turn as
    `np.rot90` does over the axes (H, W), (W, D) and (D, H).
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    spacing = np.asarray(spacing_mm)
    return rotation.T * (spacing[None, :] / spacing[:, None]) / factors[:, None]


def elastic_displacement(
    size: Shape, displacement_mm: float, control_spacing_mm: float, spacing_mm: Spacing, rng: np.random.Generator
) -> np.ndarray:
    """Return a smooth random displacement (3, d, h, w) float32, in voxels, of at most `displacement_mm` an axis.

    A cubic B-spline over control points with uniform random displacements. Below 0.4 × the control spacing
    it never folds (Choi & Lee 2000, Injectivity conditions of 2D and 3D uniform cubic B-spline functions).
    """
    axes = zip(size, spacing_mm, strict=True)
    along_d, along_h, along_w = (_bspline_basis(n, control_spacing_mm / mm) for n, mm in axes)
    control_shape = (3, along_d.shape[1], along_h.shape[1], along_w.shape[1])
    field = displacement_mm * (2 * rng.random(control_shape, dtype=np.float32) - 1)
    field /= np.reshape(spacing_mm, (3, 1, 1, 1)).astype(np.float32)
    # Stacked small products: BLAS would answer one large one with threads of its own.
    field = (along_d @ field.reshape(3, control_shape[1], -1)).reshape(3, size[0], *control_shape[2:])
    return along_h @ field @ along_w.T  # (3, d, h, w)


def source_coordinates(
    offset: Shape, size: Shape, matrix: np.ndarray, displacement: np.ndarray | None = None
) -> np.ndarray:
    """Return coordinates (3, d, h, w) float32 in the volume, in voxels, of every voxel of the patch at `offset`."""
    coordinates = np.empty((3, *size), np.float32)
    d, h, w = (np.arange(n) - (n - 1) / 2 for n in size)
    for axis, (o, n) in enumerate(zip(offset, size, strict=True)):
        plane = matrix[axis, 0] * d[:, None] + matrix[axis, 1] * h + (o + (n - 1) / 2)  # (d, h)
        np.add(
            plane.astype(np.float32)[:, :, None],
            (matrix[axis, 2] * w).astype(np.float32),
            out=coordinates[axis],
        )
    if displacement is not None:
        coordinates += displacement
    return coordinates


class LinearSampler:
    """Linear interpolation at fixed coordinates, for images and for labels.

    A label becomes the class with the largest interpolated membership (linear per class, then argmax, as
    nnU-Net does it): boundaries follow the image's to a fraction of a voxel, where the nearest voxel's label
    would be off by up to half of one. Only voxels whose eight neighbours disagree need the vote, so it costs
    little. Gathering in NumPy takes under a third of scipy.ndimage's
    time and, like it, releases the GIL.
    """

    def __init__(self, coordinates: np.ndarray, shape: tuple[int, ...]) -> None:
        """Take coordinates (3, d, h, w) float32, in voxels of a volume whose first three axes are `shape`."""
        self.size: Shape = coordinates.shape[1:]
        low, extent, steps, fractions = [], [], [], []
        for axis, n in zip(coordinates, shape, strict=False):
            # One voxel around the volume is padding; what lies further out is padding too.
            axis = np.clip(axis, -1, n)
            first = min(int(np.floor(axis.min())), n - 1)
            last = max(int(np.ceil(axis.max())), first + 1)
            axis -= first
            step = np.minimum(axis.astype(np.intp), last - first - 1)
            axis -= step
            low.append(first)
            extent.append(last - first + 1)
            steps.append(step.reshape(-1))
            fractions.append(axis.reshape(-1))
        self._low: Shape = tuple(low)  # type: ignore[assignment]
        self._extent: Shape = tuple(extent)  # type: ignore[assignment]
        self._fractions = fractions  # d, h, w, each (voxels,)
        index = steps[0]
        index *= extent[1]
        index += steps[1]
        index *= extent[2]
        index += steps[2]
        self._index = index  # of the lowest of the eight neighbours, in the flat block
        self._corners = [(d * extent[1] + h) * extent[2] + w for d in (0, 1) for h in (0, 1) for w in (0, 1)]

    def image(self, volume: np.ndarray) -> np.ndarray:
        """Return the interpolated patch (d, h, w, C) float32 of volume (D, H, W, C), 0 outside of it."""
        block = crop(volume, self._low, self._extent, np.float32)
        channels = volume.shape[3]
        patch = np.empty((*self.size, channels), np.float32)
        for channel in range(channels):
            flat = np.ascontiguousarray(block[..., channel]).reshape(-1)
            values = [flat[corner:].take(self._index) for corner in self._corners]
            for fraction in reversed(self._fractions):  # 8 -> 4 -> 2 -> 1 values along w, h, d
                for a, b in zip(values[::2], values[1::2], strict=True):
                    b -= a
                    b *= fraction
                    a += b
                values = values[::2]
            patch[..., channel] = values[0].reshape(self.size)
        return patch

    def labels(self, label: np.ndarray) -> np.ndarray:
        """Return the labels (d, h, w) of label (D, H, W), by vote of the interpolated classes; 0 outside of it."""
        flat = crop(label, self._low, self._extent, label_dtype(label)).reshape(-1)
        if flat.min() == flat.max():
            return np.full(self.size, flat[0])
        corners = np.stack([flat[corner:].take(self._index) for corner in self._corners])  # (8, voxels)
        patch = corners[0].copy()
        mixed = np.flatnonzero((corners[1:] != patch).any(axis=0))
        corners = corners[:, mixed]
        (d0, d1), (h0, h1), (w0, w1) = ((1 - f[mixed], f[mixed]) for f in self._fractions)
        weights = [d * h * w for d in (d0, d1) for h in (h0, h1) for w in (w0, w1)]
        winner, most = np.zeros(len(mixed), patch.dtype), np.zeros(len(mixed), np.float32)
        for value in np.unique(corners):
            votes = np.zeros(len(mixed), np.float32)
            for weight, corner in zip(weights, corners, strict=True):
                votes += weight * (corner == value)
            winner[votes > most] = value
            np.maximum(most, votes, out=most)
        patch[mixed] = winner
        return patch.reshape(self.size)


@lru_cache(maxsize=64)
def _bspline_basis(size: int, control_spacing: float) -> np.ndarray:
    """Return cubic B-spline weights (size, control points) float32; each row sums to 1."""
    position = np.arange(size) / control_spacing
    first = np.floor(position).astype(int)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    basis = np.zeros((size, first[-1] + 4), np.float32)
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return basis
