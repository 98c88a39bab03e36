"""Predictions back onto the grid of the file that their case came from."""

from collections.abc import Iterator, Sequence

import numpy as np

from data.prepare.resample import resample_slabs
from data.prepare.volumes import Prepared


def restore_labels(prepared: Prepared, probabilities: np.ndarray) -> np.ndarray:
    """Return labels (D, H, W) on the source file's RAS+ grid, uint8 (int16 beyond 256 classes).

    The largest of the probabilities that `restore_slabs` gives wins (ties: the first class).
    """
    dtype = np.uint8 if probabilities.shape[-1] <= 256 else np.int16
    return np.concatenate([slab.argmax(-1).astype(dtype) for _, slab in restore_slabs(prepared, probabilities)])


def restore_slabs(
    prepared: Prepared, probabilities: np.ndarray, of_regions: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield probabilities (D, H, W, K) float32 on the source file's RAS+ grid in slabs, background where cropped away.

    They come in order: (first plane, (n, H, W, K)). `probabilities` (d, h, w, K) are interpolated linearly;
    `of_regions`: none of the K is the background.
    """
    background = 0.0 if of_regions else 1.0
    return _slabs(prepared, probabilities, [background] + [0.0] * (probabilities.shape[-1] - 1))


def restore_maps(prepared: Prepared, maps: np.ndarray) -> np.ndarray:
    """Return maps (d, h, w, M) of the prepared grid on the source file's RAS+ grid, (D, H, W, M) float32.

    They are interpolated linearly, and 0 where voxels were cropped away. On the file's own grid they are
    returned as they are.
    """
    _inside(prepared, maps)
    if prepared.grid.matches(prepared.source_grid):
        return maps
    return np.concatenate([slab for _, slab in _slabs(prepared, maps, [0.0] * maps.shape[-1])])


def _slabs(prepared: Prepared, values: np.ndarray, outside: Sequence[float]) -> Iterator[tuple[int, np.ndarray]]:
    inside, shape = _inside(prepared, values), prepared.source_grid.shape
    depth, rows, columns = inside
    cropped = prepared.source_grid.crop(*prepared.box)
    away = np.array(outside, np.float32)
    if depth.start > 0:
        yield 0, np.broadcast_to(away, (depth.start, *shape[1:], len(away)))
    for first, slab in resample_slabs(values, prepared.grid, cropped):
        if cropped.shape[1:] == shape[1:]:
            yield depth.start + first, slab
        else:
            whole = np.broadcast_to(away, (len(slab), *shape[1:], len(away))).copy()
            whole[:, rows, columns] = slab
            yield depth.start + first, whole
    if depth.stop < shape[0]:
        yield depth.stop, np.broadcast_to(away, (shape[0] - depth.stop, *shape[1:], len(away)))


def _inside(prepared: Prepared, probabilities: np.ndarray) -> tuple[slice, ...]:
    if probabilities.shape[:3] != prepared.grid.shape:
        raise ValueError(
            f"probabilities of case {prepared.id} must lie on its prepared grid {prepared.grid.shape}; "
            f"got {probabilities.shape[:3]}"
        )
    return tuple(slice(o, o + n) for o, n in zip(*prepared.box, strict=True))
