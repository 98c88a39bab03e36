"""A convolution's weight gradient as one matrix product, for few voxels and many channels.

At the end of a classifier 2×2×2 voxels meet 512 channels. oneDNN's convolution then multiplies matrices voxel by
voxel and needs a hundred megabytes to do so; gathered into one product it is 4 times faster.
"""

import math

import numpy as np

from ops.convolution.geometry import Geometry
from ops.cpu.onednn import library as dnnl
from ops.cpu.onednn.primitives import Primitive, runtime

MAX_VOXELS = 256  # of the output, over the batch: from 512 on the direct kernels are as fast
MIN_CHANNEL_PAIRS = 128 * 128


def suits(g: Geometry) -> bool:
    """Return whether the product is faster than the direct kernel."""
    *y, o = g.y_shape
    return g.operator == "conv3d" and math.prod(y) <= MAX_VOXELS and o * g.x_shape[-1] >= MIN_CHANNEL_PAIRS


class WeightGradient:
    """dweight (O, taps · I) = dy (V, O) transposed times the windows of x (V, taps · I)."""

    def __init__(self, g: Geometry) -> None:
        onednn = runtime()
        self._g = g
        dtype = dnnl.BF16 if g.bfloat16 else dnnl.F32
        *y, o = g.y_shape
        voxels, columns = math.prod(y), math.prod(g.weight_shape[1:])
        dy = onednn.descriptor((o, voxels), dtype, (1, o))
        windows = onednn.descriptor((voxels, columns), dtype, (columns, 1))
        dweight = onednn.descriptor((o, columns), dnnl.F32, (columns, 1))
        doing = f"weight gradient as a product, {g}"
        description = onednn.create(
            "matmul_primitive_desc_create",
            onednn.engine.pointer,
            *(dy.pointer, windows.pointer, None, dweight.pointer),
            onednn.attributes.pointer,
            doing=doing,
        )
        layouts = {dnnl.SRC: dy.pointer, dnnl.WEIGHTS: windows.pointer, dnnl.DST: dweight.pointer}
        self._product = Primitive(onednn, description, layouts, doing)

    def __call__(self, x: np.ndarray, dy: np.ndarray, dweight: np.ndarray) -> None:
        windows = _windows(self._g, x)
        scratch = runtime().workspace(self._product.scratch_bytes)
        self._product(scratch, dy.ctypes.data, windows.ctypes.data, dweight.ctypes.data)


def _windows(g: Geometry, x: np.ndarray) -> np.ndarray:
    """Return the part of x that each output voxel reads, (N, D', H', W', kD, kH, kW, I), contiguous."""
    padded = np.pad(x, [(0, 0), *((p, p) for p in g.padding), (0, 0)])
    spans = [d * (k - 1) + 1 for k, d in zip(g.weight_shape[1:4], g.dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(1, 2, 3))
    steps = (slice(None, None, step) for step in (1, *g.stride, 1, *g.dilation))
    return np.ascontiguousarray(windows[tuple(steps)].transpose(0, 1, 2, 3, 5, 6, 7, 4))
