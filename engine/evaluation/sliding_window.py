"""Prediction of volumes of any size by overlapping windows, blended, in bounded memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, groupby, islice, product

import mlx.core as mx
import numpy as np

from ops import memory

Triple = tuple[int, int, int]
Predict = Callable[[mx.array], mx.array]  # (B, d, h, w, C) float32 -> logits (B, d, h, w, K)
Activate = Callable[[mx.array], mx.array]  # logits (..., K) float32 -> probabilities

_MOST_WINDOWS = 1_000_000  # of a volume: hours of the smallest networks
_SMALLER = "evaluate.window_size_voxels (null: data.patch_size_voxels) or evaluate.window_batch"


def softmax(logits: mx.array) -> mx.array:
    """Return the probabilities of classes that exclude each other (..., K)."""
    return mx.softmax(logits, axis=-1)


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Return the class of the largest probability (..., K) in each voxel, uint8 (int16 beyond 256 classes)."""
    num_classes = probabilities.shape[-1]
    return probabilities.argmax(-1).astype(np.uint8 if num_classes <= 256 else np.int16)


def predict_probabilities(
    predict: Predict,
    volume: np.ndarray,
    patch_size: Triple,
    overlap: float = 0.5,
    batch_size: int = 2,
    mirror_axes: Sequence[int] = (),
    activate: Activate = softmax,
) -> np.ndarray:
    """Return the class probabilities (D, H, W, K) float32 of one volume (D, H, W, C); see `predict_slabs`."""
    slabs = predict_slabs(predict, [volume], patch_size, overlap, batch_size, mirror_axes, activate)
    result = None
    for _, start, slab in slabs:
        if result is None:
            result = np.empty((*volume.shape[:3], slab.shape[-1]), np.float32)
        result[start : start + len(slab)] = slab
    assert result is not None  # every volume has a voxel
    return result


def predict_labels(
    predict: Predict,
    volumes: Iterable[np.ndarray],
    patch_size: Triple,
    overlap: float = 0.5,
    batch_size: int = 2,
    mirror_axes: Sequence[int] = (),
    activate: Activate = softmax,
    decide: Callable[[np.ndarray], np.ndarray] = most_probable,
) -> Iterator[np.ndarray]:
    """The label of each voxel (D, H, W), volume by volume: the most probable class, unless `decide` says otherwise.

    It is decided slab by slab, so that no volume's probabilities are ever held whole.
    """
    slabs = predict_slabs(predict, volumes, patch_size, overlap, batch_size, mirror_axes, activate)
    for _, of_one in groupby(slabs, key=lambda slab: slab[0]):
        yield np.concatenate([decide(probabilities) for _, _, probabilities in of_one])


def predict_slabs(
    predict: Predict,
    volumes: Iterable[np.ndarray],
    patch_size: Triple,
    overlap: float = 0.5,
    batch_size: int = 2,
    mirror_axes: Sequence[int] = (),
    activate: Activate = softmax,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (number of the volume, first plane, probabilities (d, H, W, K) float32), in order along D.

    Volumes are (D, H, W, C), read window by window (they may be memory-mapped) and taken from the iterable as
    they are needed; a batch may hold windows of several. Along each axis windows lie evenly at most
    `patch * (1 - overlap)` apart, the last one flush with the end (nnU-Net's rule, Isensee et al. 2021); a
    volume smaller than the patch is centred in zeros. The softmax (or what `activate` says), in float32, of what
    `predict` gives is blended with a Gaussian of sigma patch / 8 around each window's centre, as MONAI and nnU-Net do,
    scaled so that the weights at every voxel sum to one. With `mirror_axes` (0 is D) each window's probabilities are
    the mean over all combinations of flips along these axes: 2 ** len(mirror_axes) times the work.

    Memory: one window's depth of probabilities twice, H x W x K wide. Raises ValueError where `predict`
    returns another shape than its input's.
    """
    blend: _Blend | None = None
    for batch in _batches(_windows(volumes, patch_size, overlap), batch_size):
        x = np.stack([window.read() for window in batch])  # (B, d, h, w, C)
        for window, probabilities in zip(batch, _mirrored(predict, x, mirror_axes, activate), strict=True):
            if blend is None or blend.number != window.number:
                if blend is not None:
                    yield blend.finish()
                blend = _Blend(window, num_classes=probabilities.shape[-1])
            if window.start[0] > blend.first:
                yield blend.advance(window.start[0])
            blend.add(window, probabilities)
    if blend is not None:
        yield blend.finish()


def require_few_windows(shape: Triple, patch_size: Triple, overlap: float) -> None:
    """Raise ValueError where a volume (D, H, W) takes more windows than anybody waits for."""
    axes = zip(shape, patch_size, strict=True)
    count = math.prod(len(window_starts(size, patch, overlap)) for size, patch in axes)
    if count > _MOST_WINDOWS:
        raise ValueError(
            f"{'×'.join(map(str, shape))} voxels take {count:,} windows of {'×'.join(map(str, patch_size))}, at most "
            f"{_MOST_WINDOWS:,} are allowed; use a larger evaluate.window_size_voxels or data.spacing_mm, or a "
            "smaller evaluate.overlap"
        )


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; one negative number where the patch is the larger."""
    if size <= patch:
        return [-((patch - size) // 2)]
    steps = math.ceil((size - patch) / max(1.0, patch * (1 - overlap)))
    return [round(step * (size - patch) / steps) for step in range(steps + 1)]


def blending_weights(size: int, patch: int, starts: Sequence[int]) -> np.ndarray:
    """Weights (len(starts), patch) float32 of windows along one axis; at each voxel they sum to one.

    A product of three axes' weights then sums to one over a volume, and nothing is left to divide by.
    """
    centre = (patch - 1) / 2
    gaussian = np.exp(-0.5 * ((np.arange(patch) - centre) / (patch / 8)) ** 2)
    if size <= patch:
        return np.ones((1, patch), np.float32)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += gaussian
    return np.stack([gaussian / total[start : start + patch] for start in starts]).astype(np.float32)


@dataclass(frozen=True)
class _Window:
    number: int  # of its volume
    volume: np.ndarray
    start: Triple  # negative along axes where the volume is smaller than the patch
    patch_size: Triple
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]  # (d,), (h,), (w,)

    def inside(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return the voxels that lie in the volume, in the volume's and in the window's coordinates."""
        in_volume = tuple(
            slice(max(start, 0), min(start + patch, size))
            for start, patch, size in zip(self.start, self.patch_size, self.volume.shape, strict=False)
        )
        in_window = tuple(
            slice(voxels.start - start, voxels.stop - start)
            for voxels, start in zip(in_volume, self.start, strict=True)
        )
        return in_volume, in_window

    def read(self) -> np.ndarray:
        """(d, h, w, C) float32, zeros beyond the volume."""
        in_volume, in_window = self.inside()
        x = np.zeros((*self.patch_size, self.volume.shape[3]), np.float32)
        x[in_window] = self.volume[in_volume]
        return x


class _Blend:
    """Adds up the windows of one volume in as many planes as a window is deep."""

    def __init__(self, window: _Window, num_classes: int) -> None:
        self.number = window.number
        self.first = 0  # the first plane that windows may still add to
        self.depth = window.volume.shape[0]
        planes = min(window.patch_size[0], self.depth)
        self.sums = np.zeros((planes, *window.volume.shape[1:3], num_classes), np.float32)

    def add(self, window: _Window, probabilities: np.ndarray) -> None:
        (d, h, w), in_window = window.inside()
        part = probabilities[in_window]
        weights = [weight[voxels] for weight, voxels in zip(window.weights, in_window, strict=True)]
        part *= np.einsum("d,h,w->dhw", *weights)[..., None]
        self.sums[d.start - self.first : d.stop - self.first, h, w] += part

    def advance(self, first: int) -> tuple[int, int, np.ndarray]:
        """Hand on the planes before `first`, to which no window adds any more."""
        done = first - self.first
        rest = np.zeros_like(self.sums)
        rest[:-done] = self.sums[done:]
        slab = self.number, self.first, self.sums[:done]
        self.first, self.sums = first, rest
        return slab

    def finish(self) -> tuple[int, int, np.ndarray]:
        return self.number, self.first, self.sums[: self.depth - self.first]


def _windows(volumes: Iterable[np.ndarray], patch_size: Triple, overlap: float) -> Iterator[_Window]:
    """All windows of all volumes, D outermost."""
    for number, volume in enumerate(volumes):
        axes = []
        for size, patch in zip(volume.shape[:3], patch_size, strict=True):
            starts = window_starts(size, patch, overlap)
            axes.append(list(zip(starts, blending_weights(size, patch, starts), strict=True)))
        for (d, d_weights), (h, h_weights), (w, w_weights) in product(*axes):
            yield _Window(number, volume, (d, h, w), patch_size, (d_weights, h_weights, w_weights))


def _batches(windows: Iterator[_Window], batch_size: int) -> Iterator[list[_Window]]:
    while batch := list(islice(windows, batch_size)):
        yield batch


def _mirrored(predict: Predict, x: np.ndarray, axes: Sequence[int], activate: Activate) -> np.ndarray:
    """Probabilities (B, d, h, w, K) float32 of a batch, the mean over all flips along `axes`."""
    images = mx.array(x)
    flips = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
    total: mx.array | float = 0.0
    with memory.explained(f"prediction of windows {images.shape} (N, D, H, W, C)", _SMALLER):
        for flipped in flips:
            logits = predict(_flip(images, flipped))
            if logits.shape[:4] != images.shape[:4]:
                raise ValueError(f"the network must keep (B, d, h, w) {images.shape[:4]}; it returned {logits.shape}")
            total = total + _flip(activate(logits.astype(mx.float32)), flipped)
            mx.eval(total)  # one combination's activations at a time
        mean = total / len(flips)
        memory.evaluate(mean)
    return np.array(mean)


def _flip(batch: mx.array, axes: Sequence[int]) -> mx.array:
    """(B, d, h, w, C) turned round along the given axes, 0 being d."""
    slices = [slice(None, None, -1) if axis in axes else slice(None) for axis in range(3)]
    return batch[:, slices[0], slices[1], slices[2]] if axes else batch
