"""MLX arrays as NumPy views, without copies, for operators that leave MLX."""

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np


def view(a: mx.array) -> np.ndarray:
    """Evaluate `a` and return its memory as a C-contiguous NumPy array; bfloat16 comes as uint16.

    Nothing is copied unless `a` is strided (a transpose, a crop). The view keeps the memory alive. Do not
    write to it: MLX may share the memory with other arrays.

    Raises RuntimeError inside `mx.compile` and `mx.vmap`, where arrays have no values.
    """
    if a.dtype == mx.bfloat16:
        a = a.view(mx.uint16)
    array = _memory(a)
    return array if array.flags.c_contiguous else _memory(mx.contiguous(a))


def writable(a: mx.array) -> np.ndarray:
    """Return the memory of `a`, evaluated, to write to: all arrays that share it change.

    For arrays with one owner, such as an optimiser's state. Raises ValueError where `a` is strided.
    """
    array = _memory(a)
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {a.shape} is not contiguous, and cannot be written in place")
    return array


def empty(shape: Sequence[int], dtype: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    """Allocate an array and return it with a writable view of it; bfloat16's view is uint16.

    Write through the view before MLX computes with the array.
    """
    stored = mx.uint16 if dtype == mx.bfloat16 else dtype
    # mx.empty writes zeros, on one thread; as bytes up to 3 times as fast as numbers (memset).
    a = mx.empty((math.prod(shape) * stored.size,), mx.uint8).view(stored).reshape(shape)
    array = _memory(a)
    return (a.view(mx.bfloat16) if dtype == mx.bfloat16 else a), array


def _memory(a: Any) -> np.ndarray:
    try:
        mx.eval(a)
    except (RuntimeError, ValueError) as error:
        if "function transformations" not in str(error):
            raise
        raise RuntimeError(
            "this operator runs outside MLX and needs its inputs' values, which mx.compile and mx.vmap do not "
            "have: run the step uncompiled, or choose MLX's own operators (ops: mlx, or MLX_VOLUMES_OPS=mlx)"
        ) from error
    return np.asarray(memoryview(a))
