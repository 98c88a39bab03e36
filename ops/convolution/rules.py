"""Rules that choose, by device, shape and dtype, the form of a convolution and of its gradients in plain MLX.

The forms are in `ops/convolution/plain.py`. `docs/gpu.md` says what each becomes on a GPU, with the lines of MLX's
source that are the reasons here.
"""

import math
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from ops.convolution.geometry import Geometry

Device = Literal["metal", "cuda", "cpu"]

IMAGE_CHANNELS = 4
# Below this an unfolded input costs little, and one product beats many small calls. Tests and benchmarks lower it.
SMALL_UNFOLD_BYTES = 64 << 20


@dataclass(frozen=True)
class Forms:
    """How the three products of a convolution are computed; "mlx" is MLX's own convolution or gradient of it."""

    forward: Literal["mlx", "product", "tiles"]
    input_gradient: Literal["mlx", "phases", "tiles"]
    weight_gradient: Literal["mlx", "rows", "cudnn", "tiles"]


def device() -> Device:
    """Return the kind of MLX's default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def choose(g: Geometry, itemsize: int, on: Device) -> Forms:
    """Return the forms of a convolution with activations of `itemsize` bytes a number.

    A plain CPU runs Metal's forms, so that tests without a GPU check their values and memory.
    """
    if g.operator == "conv_transpose3d":
        # MLX dilates the input, unfolds it and multiplies by 8 times as many numbers, 7 in 8 of them zeros.
        # Other transposed convolutions are rare here: MLX's own.
        return Forms("tiles", "tiles", "tiles") if _tiles_exactly(g) else Forms("mlx", "mlx", "mlx")
    if math.prod(g.weight_shape[1:4]) == 1 and not any(g.padding):
        # Metal: the implicit kernel takes no matrix units (M5) and pads channels to 16, the three classes of a head
        # to five times their size; a product does neither. CUDA: cuBLAS's product is the same arithmetic, and has
        # no fallback that unfolds with one thread a block.
        return Forms("product", "phases", "rows")  # of one kernel position: a product each
    return Forms("mlx", _input_gradient(g, itemsize, on), _weight_gradient(g, itemsize, on))


def _tiles_exactly(g: Geometry) -> bool:
    """Return whether voxels of x become adjacent tiles of y (kernel = stride, nothing cut or added)."""
    kernel = g.weight_shape[1:4]
    grown = tuple(s * k for s, k in zip(g.x_shape[1:4], kernel, strict=True))
    return kernel == g.stride and g.y_shape[1:4] == grown and not any(g.padding)


def _input_gradient(g: Geometry, itemsize: int, on: Device) -> Literal["mlx", "phases"]:
    if on == "cuda" or math.prod(g.stride) == 1:
        return "mlx"  # cuDNN's data gradient; Metal's implicit convolution by the flipped kernel
    # Metal unfolds the gradient dilated by the stride, zeros and all
    return "mlx" if _input_unfold_bytes(g, itemsize) < SMALL_UNFOLD_BYTES else "phases"


def _weight_gradient(g: Geometry, itemsize: int, on: Device) -> Literal["mlx", "rows", "cudnn"]:
    if on != "cuda" and math.prod(g.dilation) > 1:
        return "rows"  # MLX's own is a convolution by a kernel of the output's size, over batch as channels
    if g.x_shape[-1] <= IMAGE_CHANNELS or weight_unfold_bytes(g, itemsize) < SMALL_UNFOLD_BYTES:
        return "mlx"  # by rows a stem of 7×7×7 would read the gradient 343 times
    # On CUDA MLX's own unfolds too, except with dilation, where it makes the call that "cudnn" makes. That needs no
    # memory, and PyTorch does it so; not measured yet.
    return "cudnn" if on == "cuda" else "rows"


def weight_unfold_bytes(g: Geometry, itemsize: int) -> int:
    """Return the bytes of x unfolded for the weight's gradient: a row of kernel × channels for each voxel of y."""
    return math.prod(g.y_shape[:4]) * math.prod(g.weight_shape[1:]) * itemsize


def _input_unfold_bytes(g: Geometry, itemsize: int) -> int:
    """Return the bytes of y's gradient, dilated and unfolded for x's: kernel × channels for each voxel of x."""
    return math.prod(g.x_shape[:4]) * math.prod(g.weight_shape[:4]) * itemsize
