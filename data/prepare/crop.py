"""Cutting a block out of a volume, padded where it reaches beyond."""

import numpy as np
from numpy.typing import DTypeLike

from data.files.grid import Shape


def crop(array: np.ndarray, offset: Shape, size: Shape, dtype: DTypeLike | None = None) -> np.ndarray:
    """Return a copy of `array[offset : offset + size]` over its first three axes, 0 where that lies outside."""
    dtype = array.dtype if dtype is None else dtype
    inside = tuple(slice(max(o, 0), max(min(o + s, n), 0)) for o, s, n in zip(offset, size, array.shape, strict=False))
    target = tuple(slice(i.start - o, i.stop - o) for i, o in zip(inside, offset, strict=True))
    shape = (*size, *array.shape[3:])
    if all(t.start == 0 and t.stop == s for t, s in zip(target, size, strict=True)):
        return np.array(array[inside], dtype=dtype, order="C")
    patch = np.zeros(shape, dtype)
    if all(t.start < t.stop for t in target):
        patch[target] = array[inside]
    return patch


def label_dtype(label: np.ndarray) -> DTypeLike:
    """Return the dtype of a label patch: uint8 stays, all else becomes int32 (mlx-data takes no int16)."""
    return np.uint8 if label.dtype == np.uint8 else np.int32
