"""`ops.upsample` on a Linux CPU, by Numba: a small matrix for each axis."""

import functools
from typing import Any

import mlx.core as mx
import numpy as np

from ops.convolution.geometry import Shape, Triple
from ops.cpu.resample_kernels import linear_operator


def upsample3d(x: mx.array, scale: Triple, mode: str) -> mx.array:
    """Return x (N, D, H, W, C), float32 or bfloat16, with `scale` times the voxels along each axis."""
    y: mx.array = _operator(tuple(x.shape[1:4]), scale, mode)(x)
    return y


@functools.lru_cache(256)
def _operator(size: Shape, scale: Triple, mode: str) -> Any:
    return linear_operator([_matrix(s, factor, mode) for s, factor in zip(size, scale, strict=True)])


def _matrix(size: int, factor: int, mode: str) -> np.ndarray:
    """Return (size * factor, size): the weights of an axis' voxels in those of the enlarged axis."""
    if mode == "nearest":
        return np.repeat(np.eye(size), factor, axis=0)
    position = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(position[:, None] - np.arange(size)), 0)
