"""Volumes from one grid onto another that shares its axes: images and probabilities; `resample_labels` has labels.

Positions come from the two grids' affines alone, so an array and its affine cannot drift apart: voxel `o`
of the target reads the source at `scale * o + offset` along each axis. Beyond the outermost voxel centres
of the source the edge is repeated (linear) or mirrored (cubic).
"""

from collections.abc import Iterator, Sequence
from math import log, sqrt
from typing import Literal

import numpy as np
from scipy import ndimage

from data.files.grid import Grid

Interpolation = Literal["linear", "cubic"]
# Per axis: which source voxels each target voxel reads (n, taps) and their weights (n, taps); None copies.
Taps = tuple[np.ndarray, np.ndarray] | None

_SLAB_VOXELS = 1 << 21  # target voxels interpolated at a time: temporaries of some 10 MB each


def axis_map(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset), each (3,) float64 in (D, H, W): target voxel o lies at source voxel scale * o + offset.

    Raises ValueError when the grids' axes are not parallel: they differ by more than spacing and origin.
    """
    ijk = np.linalg.inv(source.affine) @ target.affine
    off_axis = ijk[:3, :3] - np.diag(np.diag(ijk)[:3])
    # Over the whole target the stray displacement must stay below a hundredth of a source voxel.
    if np.abs(off_axis @ np.array(target.shape[::-1], float)).max() > 0.01:
        raise ValueError(
            f"resampling needs grids with parallel axes; got the affines {source.affine.tolist()} "
            f"and {target.affine.tolist()}; reorient one of them first"
        )
    return np.diag(ijk)[2::-1].copy(), ijk[2::-1, 3].copy()


def resample_image(
    volume: np.ndarray, source: Grid, target: Grid, interpolation: Interpolation = "linear"
) -> np.ndarray:
    """Return the volume (D, H, W, C) on the target grid, float32 of shape (*target.shape, C).

    Channel by channel. An axis that gets coarser is smoothed first by a Gaussian that turns the source's
    point spread into the target's (Cardoso et al. 2015, «Scale factor point spread function matching»), so
    that fine detail does not alias. `interpolation`: "linear", or "cubic" (B-spline through the voxels).
    Extra memory: the result and one float32 channel of the source.
    """
    scale, offset = axis_map(source, target)
    sigmas = smoothing_sigmas(source, target)
    taps = [_taps(*axis, interpolation) for axis in zip(target.shape, source.shape, scale, offset, strict=True)]
    out = np.empty((*target.shape, volume.shape[-1]), np.float32)
    for channel in range(volume.shape[-1]):
        image = np.array(volume[..., channel], np.float32)  # (D, H, W), a copy: filtered in place
        smooth(image, sigmas)
        if interpolation == "cubic":
            for axis in range(3):
                if taps[axis] is not None:
                    ndimage.spline_filter1d(image, 3, axis, output=image, mode="mirror")
        for planes, slab in interpolated_slabs(image, taps, target.shape):
            out[planes, ..., channel] = slab
    return out


def resample_slabs(values: np.ndarray, source: Grid, target: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """Yield values (D, H, W, K) on the target grid, by linear interpolation: slabs (first plane, (d, H, W, K) float32).

    Probabilities still sum to one in each voxel, up to rounding.
    """
    for planes, block, taps in _slabs(values, linear_taps(source, target), target.shape):
        slab = np.empty((planes.stop - planes.start, *target.shape[1:], values.shape[-1]), np.float32)
        for channel in range(values.shape[-1]):
            slab[..., channel] = _interpolate(block[..., channel], taps)
        yield planes.start, slab


def smoothing_sigmas(source: Grid, target: Grid) -> list[float]:
    """Return the Gaussian's sigma along each axis, in source voxels, that `resample_image` smooths by; 0 for none."""
    scale, _ = axis_map(source, target)
    return [sqrt(s * s - 1) / (2 * sqrt(2 * log(2))) if s > 1 + 1e-6 else 0.0 for s in scale]


def smooth(image: np.ndarray, sigmas: Sequence[float]) -> None:
    """Smooth the image (D, H, W) in place; its edges are repeated, the Gaussian ends at four sigmas."""
    for axis, sigma in enumerate(sigmas):
        if sigma:
            ndimage.gaussian_filter1d(image, sigma, axis, output=image, mode="nearest")


def linear_taps(source: Grid, target: Grid) -> list[Taps]:
    """Return what each target voxel reads of the source by linear interpolation, along each axis."""
    scale, offset = axis_map(source, target)
    return [_taps(*axis, "linear") for axis in zip(target.shape, source.shape, scale, offset, strict=True)]


def _taps(size: int, source_size: int, scale: float, offset: float, interpolation: Interpolation) -> Taps:
    """Return what each of `size` target voxels reads along one axis of `source_size` voxels."""
    if size == source_size and abs(scale - 1) < 1e-6 and abs(offset) < 1e-4:
        return None
    # The affines carry rounding of some 1e-6 voxels: a hair beyond a voxel is that voxel.
    position = np.round(scale * np.arange(size) + offset, 6)
    if interpolation == "linear":
        position = position.clip(0, source_size - 1)
        low = np.floor(position).astype(np.intp)
        part = position - low
        index = np.stack([low, np.minimum(low + 1, source_size - 1)], axis=1)
        weight: np.ndarray = np.stack([1 - part, part], axis=1)
    else:
        low = np.floor(position).astype(np.intp)
        t = position - low
        index = low[:, None] + np.arange(-1, 3)
        period = max(2 * (source_size - 1), 1)  # mirrored about the outermost voxel centres
        index = np.abs(index) % period
        index = np.minimum(index, period - index) if source_size > 1 else np.zeros_like(index)
        cubes = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        weight = np.stack(cubes, axis=1) / 6
    return index, weight.astype(np.float32)


def _interpolate(block: np.ndarray, taps: list[Taps]) -> np.ndarray:
    """Return the block (d, h, w), float32, with each axis interpolated in turn."""
    block = np.asarray(block, np.float32)
    for axis, tap in enumerate(taps):
        if tap is None:
            continue
        index, weight = tap
        along = [1, 1, 1]
        along[axis] = -1
        total = np.take(block, index[:, 0], axis) * weight[:, 0].reshape(along)
        for i in range(1, index.shape[1]):
            part = np.take(block, index[:, i], axis)
            part *= weight[:, i].reshape(along)
            total += part
        block = total
    return block


def interpolated_slabs(
    image: np.ndarray, taps: list[Taps], shape: tuple[int, int, int]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the image (D, H, W) read through `taps`, as `shape`, in slabs: (target planes, (d, H, W) float32)."""
    for planes, block, slab_taps in _slabs(image, taps, shape):
        yield planes, _interpolate(block, slab_taps)


def _slabs(
    array: np.ndarray, taps: list[Taps], shape: tuple[int, int, int]
) -> Iterator[tuple[slice, np.ndarray, list[Taps]]]:
    """Yield slabs of target planes: (target planes, the source planes that they read, taps into those)."""
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        planes = slice(start, min(start + step, shape[0]))
        if taps[0] is None:
            yield planes, array[planes], taps
            continue
        index, weight = taps[0][0][planes], taps[0][1][planes]
        low, high = int(index.min()), int(index.max()) + 1
        yield planes, array[low:high], [(index - low, weight), *taps[1:]]
