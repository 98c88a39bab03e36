"""The random changes of intensity: for each its arguments, a function that draws and applies it, and a line in CHANGES.

A function takes a patch (d, h, w, C) float32, which it may overwrite, and returns the changed one.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.random import Generator
from pydantic import AfterValidator, Field

from configs.schema.augment import ChangeArgs, NonNegativeRange, PositiveRange, ordered
from configs.schema.types import Probability
from data.sampling import augment_intensity as intensity


class BiasField(ChangeArgs):
    """Multiply by exp of a smooth random polynomial field, as MRI coils do; the darkest 1 % of the patch count as 0."""

    strength: NonNegativeRange = (0.0, 0.3)
    order: Annotated[int, Field(ge=1, le=4)] = 3


def bias_field(patch: np.ndarray, args: BiasField, rng: Generator) -> np.ndarray:
    field = intensity.bias_field(patch.shape[:3], rng.uniform(*args.strength), args.order, rng)
    return intensity.apply_bias_field(patch, field)


class Noise(ChangeArgs):
    """Additive Gaussian noise of a standard deviation from the range, in units of the normalised image."""

    std: NonNegativeRange = (0.0, 0.1)


def noise(patch: np.ndarray, args: Noise, rng: Generator) -> np.ndarray:
    return intensity.add_noise(patch, rng.uniform(*args.std), rng)


class Blur(ChangeArgs):
    """Gaussian blur of a sigma from the range, in voxels."""

    sigma_voxels: NonNegativeRange = (0.5, 1.0)


def blur(patch: np.ndarray, args: Blur, rng: Generator) -> np.ndarray:
    return intensity.blur(patch, rng.uniform(*args.sigma_voxels))


class Brightness(ChangeArgs):
    """Multiply intensities by a factor from the range."""

    factor: PositiveRange = (0.75, 1.25)


def brightness(patch: np.ndarray, args: Brightness, rng: Generator) -> np.ndarray:
    return intensity.change_brightness(patch, rng.uniform(*args.factor, patch.shape[3]))


class Contrast(ChangeArgs):
    """Stretch intensities about each channel's mean by a factor, kept within the channel's range."""

    factor: PositiveRange = (0.75, 1.25)


def contrast(patch: np.ndarray, args: Contrast, rng: Generator) -> np.ndarray:
    return intensity.change_contrast(patch, rng.uniform(*args.factor, patch.shape[3]))


class LowResolution(ChangeArgs):
    """Simulated low resolution, as nnU-Net's: down by a factor, nearest voxels, and up again linearly.

    Each channel has a factor of its own, drawn evenly in its inverse, the resolution that is left.
    """

    factor: Annotated[
        tuple[Annotated[float, Field(ge=1, le=1e3)], Annotated[float, Field(ge=1, le=1e3)]], AfterValidator(ordered)
    ] = (
        1.0,
        2.0,
    )
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)


def low_resolution(patch: np.ndarray, args: LowResolution, rng: Generator) -> np.ndarray:
    low, high = args.factor
    return intensity.lower_resolution(patch, 1 / rng.uniform(1 / high, 1 / low, patch.shape[3]), args.axes)


class Gamma(ChangeArgs):
    """Gamma curve on each channel scaled to 0..1, mean and deviation kept; inverted with `invert`.

    The exponent is drawn evenly in its logarithm.
    """

    gamma: PositiveRange = (0.7, 1.5)
    invert: Probability = 0.0


def gamma(patch: np.ndarray, args: Gamma, rng: Generator) -> np.ndarray:
    invert = rng.random() < args.invert
    return intensity.change_gamma(patch, intensity.draw_factor(args.gamma, rng, patch.shape[3]), invert)


class ChannelDrop(ChangeArgs):
    """Set one random channel to zero (one is always left)."""


def channel_drop(patch: np.ndarray, args: ChannelDrop, rng: Generator) -> np.ndarray:
    return intensity.drop_channel(patch, int(rng.integers(patch.shape[3])))


class Change(NamedTuple):
    """A change of intensity: the class of its arguments, and apply(patch, args, rng) -> patch."""

    args: type[ChangeArgs]
    apply: Callable[[np.ndarray, Any, Generator], np.ndarray]


CHANGES = {  # by the key in `data.augment`, in the order of image formation, as nnU-Net keeps it
    "bias_field": Change(BiasField, bias_field),
    "noise": Change(Noise, noise),
    "blur": Change(Blur, blur),
    "brightness": Change(Brightness, brightness),
    "contrast": Change(Contrast, contrast),
    "low_resolution": Change(LowResolution, low_resolution),
    "gamma": Change(Gamma, gamma),
    "channel_drop": Change(ChannelDrop, channel_drop),
}
