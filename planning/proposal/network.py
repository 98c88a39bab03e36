"""Patch, levels and widths of a U-Net from spacing, shapes and memory, in the spirit of nnU-Net.

Isensee et al. 2021 (Nature Methods 18:203): the patch is as large as memory allows and no larger than the
median case, an axis is halved while it has voxels enough, and a coarse axis waits for the finer ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema.model import MAX_ELEMENTS
from data.files.grid import Shape, Spacing

ANISOTROPIC = 3.0  # coarsest spacing over the finest: beyond it, the coarse axis is treated on its own
COARSE = 2.0  # an axis this much coarser than the finest is neither halved nor convolved across
MIN_VOXELS = 4  # along an axis, at the lowest level
MIN_PATCH = 16  # voxels along an axis: memory shrinks none below it
MAX_LEVELS = 6
MAX_WIDTH = 320
WIDE_GB = 16.0  # memory from which on the first level has 32 channels rather than 16

# Peak memory of a training step: fitted to six dry runs on a CPU (float32, Adam, oneDNN), within 5 % of each.
BASE_GB = 0.31  # interpreter, libraries and the batches that wait
MAPS_A_LEVEL = 15.5  # maps of its width that a level keeps for the backward pass, way down and way up together
MAPS_A_CLASS = 8.0  # at full resolution: logits, probabilities, their gradients
BYTES_A_WEIGHT = 16  # weight, gradient, two moments


@dataclass(frozen=True)
class Network:
    """A patch and the U-Net for it; per level the stride and kernel along (D, H, W), and the width."""

    patch: Shape
    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]
    widths: tuple[int, ...]


def target_spacing(spacings: np.ndarray) -> Spacing:
    """Return the spacing in mm to resample to, from the cases' (n, 3): the median of each axis.

    Where the coarsest axis is more than ANISOTROPIC times the finest, it takes the 10th percentile of its
    own, as interpolating thin slices into thick ones loses most; but never below the next axis.
    """
    middle = np.median(spacings, axis=0)
    coarse = int(middle.argmax())
    if middle[coarse] > ANISOTROPIC * middle.min():
        others = np.delete(middle, coarse)
        middle[coarse] = max(np.percentile(spacings[:, coarse], 10), others.max())
    d, h, w = (float(f"{mm:.4g}") for mm in middle)
    return d, h, w


def coarse_axis(spacing_mm: Sequence[float]) -> int | None:
    """Return the axis of thick slices, if there is one."""
    if max(spacing_mm) <= ANISOTROPIC * min(spacing_mm):
        return None
    return int(np.argmax(spacing_mm))


def design_network(shape: Shape, spacing_mm: Spacing, num_channels: int, num_classes: int, memory_gb: float) -> Network:
    """Return the network whose patch holds a case of `shape` whole, or as much of it as fits `memory_gb` twice.

    What has to go goes from the axis that is longest in mm, so that the patch sees about as far along each.
    Raises ValueError where not even the smallest patch fits.
    """
    width = 32 if memory_gb >= WIDE_GB else 16
    wanted = list(shape)
    network = design_levels(shape, spacing_mm, width)
    while not fits(network, 2, num_channels, num_classes, memory_gb):
        steps = np.prod(network.strides, axis=0)
        axes = zip(network.patch, spacing_mm, steps, strict=True)
        extents = [n * mm if n - step >= MIN_PATCH else 0.0 for n, mm, step in axes]
        if not any(extents):
            needed = training_gb(network, 2, num_channels, num_classes)
            raise ValueError(f"--memory {memory_gb:g}: the smallest patch needs about {needed:.1f} GB")
        axis = int(np.argmax(extents))
        wanted[axis] = network.patch[axis] - int(steps[axis])
        network = design_levels((wanted[0], wanted[1], wanted[2]), spacing_mm, width)
    return network


def design_levels(shape: Shape, spacing_mm: Spacing, width: int) -> Network:
    """Return levels for a patch of at least `shape`, which is rounded up to what their strides divide.

    Along an axis of fewer than MIN_VOXELS, as of a few slices, the patch has one: it is neither halved nor convolved
    across.

    An axis is halved from one level to the next while MIN_VOXELS are left of it and it is at most COARSE times
    as coarse as the finest axis that can still be halved; a level that would halve one short axis alone is left
    out. An axis is convolved across (kernel 3) from the level on at which it is at most COARSE times as coarse as
    the finest.
    """
    few = few_voxels(shape)
    shape = _triple(np.where(few, 1, shape))
    size, mm = np.array(shape), np.where(few, np.inf, spacing_mm)
    strides, kernels = [np.ones(3, int)], [np.where(mm <= COARSE * mm.min(), 3, 1)]
    while len(strides) < MAX_LEVELS and (long := size >= 2 * MIN_VOXELS).any():
        halved = long & (mm <= COARSE * mm[long].min())
        if halved.sum() == 1 and size[halved] < 3 * MIN_VOXELS:
            break
        stride = np.where(halved, 2, 1)
        size, mm = -(-size // stride), mm * stride
        strides.append(stride)
        kernels.append(np.where((mm <= COARSE * mm.min()) | (kernels[-1] == 3), 3, 1))
    total = np.prod(strides, axis=0)
    patch = -(-np.array(shape) // total) * total
    widths = tuple(min(width * 2**level, MAX_WIDTH) for level in range(len(strides)))
    return Network(_triple(patch), tuple(map(_triple, strides)), tuple(map(_triple, kernels)), widths)


def few_voxels(shape: Shape) -> np.ndarray:
    """Return for each axis whether it has fewer than MIN_VOXELS, and others have more."""
    few = np.array(shape) < MIN_VOXELS
    return few & ~few.all()


def fits(network: Network, batch_size: int, num_channels: int, num_classes: int, memory_gb: float) -> bool:
    """Return whether training takes at most the memory, and no array more than MAX_ELEMENTS."""
    largest = batch_size * math.prod(network.patch) * max(2 * network.widths[0], num_classes)
    return largest <= MAX_ELEMENTS and training_gb(network, batch_size, num_channels, num_classes) <= memory_gb


def training_gb(network: Network, batch_size: int, num_channels: int, num_classes: int) -> float:
    """Return the estimated peak memory of training with Adam in float32."""
    voxels, floats, weights, above = math.prod(network.patch), 0.0, 0, num_channels
    last = len(network.widths) - 1
    for level, (stride, kernel, width) in enumerate(zip(network.strides, network.kernels, network.widths, strict=True)):
        voxels //= math.prod(stride)
        floats += voxels * width * MAPS_A_LEVEL
        inputs = above + width if level == last else above + 4 * width  # of two blocks down and, but last, two up
        weights += width * (math.prod(kernel) * inputs + (math.prod(stride) * above if level else 0))
        above = width
    floats += math.prod(network.patch) * (num_channels + num_classes * MAPS_A_CLASS)
    return BASE_GB + (4 * batch_size * floats + BYTES_A_WEIGHT * weights) / 1e9


def _triple(values: np.ndarray) -> Shape:
    d, h, w = (int(value) for value in values)
    return d, h, w
