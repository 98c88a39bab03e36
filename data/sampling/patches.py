"""One training sample out of one prepared case: where the patch lies, and the cut itself."""

from collections.abc import Mapping
from itertools import product
from typing import Literal

import numpy as np

from data.files.grid import Shape, Spacing
from data.prepare.crop import crop, label_dtype
from data.sampling.augment import Augment

Sampling = Literal["random", "whole", "grid"]


def draw_sample(
    volume: np.ndarray,
    label: np.ndarray | None,
    foreground: Mapping[int, np.ndarray],
    rng: np.random.Generator,
    *,
    patch_size: Shape,
    foreground_rate: float,
    sampling: Sampling = "random",
    augment: Augment | None = None,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return one augmented patch x (d, h, w, C) float32 and its labels y (d, h, w), if any, cut from a prepared case.

    `volume` (D, H, W, C) float32 or float16 and `label` (D, H, W) may be memory maps: only the block that
    the patch needs is read. Rotation, scaling and elastic deformation are composed into the cut, so that
    the patch is interpolated once and its corners show the volume's surroundings, not padding.

    `foreground` holds voxel coordinates (n, 3) per class. `sampling` is "random" (a share `foreground_rate`
    centred on a voxel of a random foreground class), "whole" (the volume, padded) or "grid" (a random tile
    of the volume's grid of patches). Outside the volume both are 0. Both arrays are C-contiguous,
    writable and owned by the caller; y is uint8 where the label is, else int32. The result depends on the
    arguments and on the state of `rng` alone.

    Raises ValueError when `sampling` is "whole" and the volume is larger than the patch.
    """
    offset = draw_offset(volume.shape[:3], foreground, rng, patch_size, foreground_rate, sampling)
    if augment is not None:
        return augment.sample(volume, label, offset, rng, patch_size=patch_size, spacing_mm=spacing_mm)
    y = None if label is None else crop(label, offset, patch_size, label_dtype(label))
    return crop(volume, offset, patch_size, np.float32), y


def draw_offset(
    shape: tuple[int, ...],
    foreground: Mapping[int, np.ndarray],
    rng: np.random.Generator,
    patch_size: Shape,
    foreground_rate: float,
    sampling: Sampling = "random",
) -> Shape:
    """Return the patch's first voxel in the volume's coordinates, per axis; negative where the volume is padded."""
    if sampling == "whole":
        if any(n > p for n, p in zip(shape, patch_size, strict=True)):
            raise ValueError(
                f"data.sampling=whole needs data.patch_size_voxels of at least the volume's {list(shape)}; "
                f"got {list(patch_size)}; enlarge it, or use data.sampling=random"
            )
        return _limit((0, 0, 0), shape, patch_size)
    if sampling == "grid":
        offsets = grid_offsets(shape, patch_size)
        return offsets[int(rng.integers(len(offsets)))]

    classes = sorted(value for value, voxels in foreground.items() if value > 0 and len(voxels))
    if rng.random() < foreground_rate and classes:
        voxels = foreground[classes[int(rng.integers(len(classes)))]]
        centre = voxels[int(rng.integers(len(voxels)))]
        return _limit([int(c) - p // 2 for c, p in zip(centre, patch_size, strict=True)], shape, patch_size)
    limits = [max(n - p, 0) for n, p in zip(shape, patch_size, strict=True)]
    return _limit([int(rng.integers(limit + 1)) for limit in limits], shape, patch_size)


def grid_offsets(shape: tuple[int, ...], patch_size: Shape) -> list[Shape]:
    """Return offsets of patches that cover the volume, edge to edge.

    The last patch of an axis ends with the volume; an axis shorter than the patch has one, centred.
    """
    axes = [
        [*range(0, n - p, p), n - p] if n > p else [-((p - n) // 2)] for n, p in zip(shape, patch_size, strict=True)
    ]
    return [(d, h, w) for d, h, w in product(*axes)]


def _limit(offset: tuple[int, ...] | list[int], shape: tuple[int, ...], patch_size: Shape) -> Shape:
    """Return the offset moved so that the patch lies inside the volume; where it is larger, centred on it."""
    d, h, w = (
        -((p - n) // 2) if n <= p else min(max(o, 0), n - p) for o, n, p in zip(offset, shape, patch_size, strict=True)
    )
    return d, h, w
