"""Changes of intensity, on float32 patches (d, h, w, C). Each works in place where it can and returns the patch.

Factors and exponents may be one number or one a channel, shape (C,).
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Factor = float | np.ndarray


def draw_factor(bounds: tuple[float, float], rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Draw factors (count,) evenly in their logarithm: between 1/2 and 2 one below 1 is as likely as one above."""
    low, high = np.log(bounds)
    return np.exp(rng.uniform(low, high, count))


def add_noise(patch: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Return the patch with Gaussian noise of the standard deviation `std` added."""
    noise = rng.standard_normal(patch.shape, dtype=np.float32)
    noise *= np.float32(std)
    patch += noise
    return patch


def blur(patch: np.ndarray, sigma_voxels: float) -> np.ndarray:
    """Return the patch convolved with a Gaussian, each channel by itself; borders are mirrored."""
    return ndimage.gaussian_filter(patch, sigma_voxels, axes=(0, 1, 2), truncate=3.0, output=np.float32)


def change_brightness(patch: np.ndarray, factor: Factor) -> np.ndarray:
    """Return the patch multiplied by `factor`."""
    patch *= np.asarray(factor, np.float32)
    return patch


def change_contrast(patch: np.ndarray, factor: Factor) -> np.ndarray:
    """Return the patch stretched by `factor` about each channel's mean, clipped to the channel's former range."""

    def stretch(values: np.ndarray, factor: np.float32) -> np.ndarray:
        low, high, mean = values.min(), values.max(), values.mean()
        values -= mean
        values *= factor
        values += mean
        return np.clip(values, low, high, out=values)

    return _each_channel(patch, stretch, factor)


def change_gamma(patch: np.ndarray, gamma: Factor, invert: bool = False) -> np.ndarray:
    """Return each channel, scaled to 0..1, raised to `gamma`; then brought back to its mean and deviation.

    With `invert` the curve is applied to the negative image, which spreads the bright end instead of the
    dark one. A constant channel is left as it is.
    """

    def bend(values: np.ndarray, gamma: np.float32) -> np.ndarray:
        low, high = values.min(), values.max()
        if low == high:
            return values
        mean, std = values.mean(), values.std()
        curve = (high - values if invert else values - low) / (high - low)
        np.power(curve, gamma, out=curve)
        curve -= curve.mean()
        curve *= (-std if invert else std) / curve.std()
        curve += mean
        return curve

    return _each_channel(patch, bend, gamma)


def lower_resolution(patch: np.ndarray, factor: Factor, axes: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Return the patch sampled down by `factor` along `axes`, to the nearest voxels, and up again linearly; same shape.

    As nnU-Net does it (batchgeneratorsv2, SimulateLowResolutionTransform): fine detail aliases, as in thick slices.
    """

    def lower(values: np.ndarray, factor: np.float32) -> np.ndarray:
        shape = values.shape
        for axis in axes:
            size = max(round(shape[axis] / float(factor)), 1)
            values = values.take(((np.arange(size) + 0.5) * (shape[axis] / size)).astype(np.intp), axis)
        for axis in axes:
            values = _resize_linear(values, axis, shape[axis])
        return values

    return _each_channel(patch, lower, factor)


def bias_field(shape: tuple[int, ...], strength: float, order: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth positive field (d, h, w) float32, within exp(-strength) and exp(strength).

    The exponential of a random polynomial of degree `order` in the coordinates, without constant term, as
    Van Leemput et al. 1999 (Automated model-based bias field correction of MR images of the brain) model it.
    """
    degrees = np.indices((order + 1,) * 3).sum(axis=0)
    coefficients = rng.uniform(-1, 1, degrees.shape) * ((degrees > 0) & (degrees <= order))
    along_d, along_h, along_w = (np.polynomial.legendre.legvander(np.linspace(-1, 1, n), order) for n in shape[:3])
    field = np.einsum("ijk,di->djk", coefficients, along_d)
    field = (along_h @ field @ along_w.T).astype(np.float32)  # (d, h, w)
    largest = np.abs(field).max()
    if largest > 0:
        field *= np.float32(strength) / largest
    return np.exp(field, out=field)


def apply_bias_field(patch: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return each channel multiplied by the field (d, h, w), counted from its first percentile.

    Scanners multiply intensities that start at zero; normalised ones are centred on it, and multiplied as
    they are, dark tissue would darken where bright tissue brightens. Counted from the minimum, one dark voxel
    would decide how much all others change.
    """

    def multiply(values: np.ndarray, _: np.float32) -> np.ndarray:
        low = np.float32(np.percentile(values, 1))
        values -= low
        values *= field
        values += low
        return values

    return _each_channel(patch, multiply, 0.0)


def drop_channel(patch: np.ndarray, channel: int) -> np.ndarray:
    """Return the patch with one channel set to zero; a single channel is left as it is."""
    if patch.shape[3] > 1:
        patch[..., channel] = 0
    return patch


def _each_channel(
    patch: np.ndarray, change: Callable[[np.ndarray, np.float32], np.ndarray], amount: Factor
) -> np.ndarray:
    """Return the patch with each channel (d, h, w) changed on its own: short innermost axes are slow in NumPy."""
    amounts = np.broadcast_to(np.asarray(amount, np.float32), patch.shape[3:])
    for channel, own in enumerate(amounts):
        patch[..., channel] = change(np.array(patch[..., channel]), own)
    return patch


def _resize_linear(volume: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Return the volume linearly interpolated to `size` voxels along one axis, over the same extent."""
    n = volume.shape[axis]
    if n == size:
        return volume
    position = np.clip((np.arange(size) + 0.5) * (n / size) - 0.5, 0, n - 1)
    below = np.minimum(position.astype(np.intp), max(n - 2, 0))
    weight = (position - below).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
    lower = volume.take(below, axis)
    upper = volume.take(np.minimum(below + 1, n - 1), axis)
    upper -= lower
    upper *= weight
    lower += upper
    return lower
