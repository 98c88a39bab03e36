"""Upsampling by whole factors, nearest or linear."""

import mlx.core as mx

from ops import backend
from ops.convolution.geometry import Triple, triple

MODES = ("nearest", "linear")


def upsample3d(x: mx.array, scale: int | Triple, mode: str = "nearest") -> mx.array:
    """Return x (N, D, H, W, C) with `scale` times the voxels along each axis, in x's dtype.

    "nearest" repeats voxels; "linear" interpolates between their centres and repeats the border's
    (`align_corners=False`, as `mlx.nn.Upsample` does it).

    Raises ValueError for another mode, a scale that is not a positive integer, or x of another rank.
    """
    scale = triple(scale)
    if mode not in MODES:
        raise ValueError(f"upsample3d: mode={mode!r} must be one of {', '.join(MODES)}")
    if len(scale) != 3 or any(not isinstance(s, int) or s < 1 for s in scale):
        raise ValueError(f"upsample3d: scale={scale} must be one positive integer or three, for D, H and W")
    if x.ndim != 5:
        raise ValueError(f"upsample3d: x must be (N, D, H, W, C), got {x.shape}")
    if backend.runs_on_onednn(x):
        from ops.cpu import upsample as cpu

        return cpu.upsample3d(x, scale, mode)
    return _plain(x, scale, mode)


def _plain(x: mx.array, scale: Triple, mode: str) -> mx.array:
    dtype = x.dtype
    x = x if mode == "nearest" else x.astype(mx.float32)
    for axis, factor in enumerate(scale, 1):
        if factor == 1:
            continue
        phases = [x] * factor
        if mode == "linear":
            first, rest = mx.split(x, [1], axis=axis)
            most, last = mx.split(x, [x.shape[axis] - 1], axis=axis)
            before, after = mx.concatenate([first, most], axis=axis), mx.concatenate([rest, last], axis=axis)
            offsets = [(p + 0.5) / factor - 0.5 for p in range(factor)]
            phases = [x * (1 - abs(t)) + (before if t < 0 else after) * abs(t) for t in offsets]
        # Stacked, not broadcast: the gradient of a broadcast is a reduction that MLX's CPU form is slow at.
        x = mx.stack(phases, axis=axis + 1).flatten(axis, axis + 1)
    return x.astype(dtype)
