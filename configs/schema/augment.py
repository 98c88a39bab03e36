"""Augmentation: each transform has a probability (per sample) and its ranges; probability 0 is off."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field

from configs.schema.types import Positive, Probability, Section


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high]; got {list(value)}")
    return value


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
NonNegativeRange = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ordered)
]
AnyRange = Annotated[tuple[float, float], AfterValidator(_ordered)]


class Flip(Section):
    """Mirror each listed axis with the given probability; axes are 0 = D, 1 = H, 2 = W (left/right)."""

    probability: Probability = 0.0
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)


class Rotate(Section):
    """Rotation about D, H and W, each by an angle from its range; 0 and 0 leaves an axis alone."""

    probability: Probability = 0.0
    degrees: tuple[AnyRange, AnyRange, AnyRange] = ((-15, 15), (-15, 15), (-15, 15))


class Scale(Section):
    """Zoom by a factor, drawn evenly in its logarithm; above 1 enlarges. One factor for all axes, or one each."""

    probability: Probability = 0.0
    factor: PositiveRange = (0.8, 1.25)
    per_axis: bool = False


class Elastic(Section):
    """Smooth random displacement: a coarse grid of control points, moved by up to `displacement_mm` along each axis."""

    probability: Probability = 0.0
    displacement_mm: NonNegativeRange = (1.0, 4.0)
    control_spacing_mm: Positive = 12.0  # folds nothing where it is over 2.5 times the displacement


class Noise(Section):
    """Additive Gaussian noise of a standard deviation from the range, in units of the normalised image."""

    probability: Probability = 0.0
    std: NonNegativeRange = (0.0, 0.1)


class Blur(Section):
    """Gaussian blur of a sigma from the range, in voxels."""

    probability: Probability = 0.0
    sigma_voxels: NonNegativeRange = (0.5, 1.0)


class Brightness(Section):
    """Multiply intensities by a factor from the range."""

    probability: Probability = 0.0
    factor: PositiveRange = (0.75, 1.25)


class Contrast(Section):
    """Stretch intensities about each channel's mean by a factor, kept within the channel's range."""

    probability: Probability = 0.0
    factor: PositiveRange = (0.75, 1.25)


class Gamma(Section):
    """Gamma curve on each channel scaled to 0..1, mean and deviation kept; inverted with `invert`.

    The exponent is drawn evenly in its logarithm.
    """

    probability: Probability = 0.0
    gamma: PositiveRange = (0.7, 1.5)
    invert: Probability = 0.0


class LowResolution(Section):
    """Simulated low resolution, as nnU-Net's: down by a factor, nearest voxels, and up again linearly.

    Each channel has a factor of its own, drawn evenly in its inverse, the resolution that is left.
    """

    probability: Probability = 0.0
    factor: Annotated[tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]], AfterValidator(_ordered)] = (
        1.0,
        2.0,
    )
    axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)


class BiasField(Section):
    """Multiply by exp of a smooth random polynomial field, as MRI coils do; the darkest 1 % of the patch count as 0."""

    probability: Probability = 0.0
    strength: NonNegativeRange = (0.0, 0.3)
    order: Annotated[int, Field(ge=1, le=4)] = 3


class ChannelDrop(Section):
    """Set one random channel to zero (one is always left)."""

    probability: Probability = 0.0


class AugmentConfig(Section):
    """Augmentation of training samples; each draw depends on (seed, epoch, sample) alone."""

    flip: Flip = Flip()
    rotate: Rotate = Rotate()
    scale: Scale = Scale()
    elastic: Elastic = Elastic()
    bias_field: BiasField = BiasField()
    noise: Noise = Noise()
    blur: Blur = Blur()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    low_resolution: LowResolution = LowResolution()
    gamma: Gamma = Gamma()
    channel_drop: ChannelDrop = ChannelDrop()

    @classmethod
    def none(cls) -> Self:
        """No augmentation at all."""
        return cls()
