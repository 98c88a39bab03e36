"""Augmentation: each transform has a probability (per sample) and its ranges; probability 0 is off."""

from typing import Annotated

from pydantic import AfterValidator, Field

from configs.schema.types import Probability, Section, Spacing


def ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"a range is [low, high]; got {list(value)}")
    return value


_Factor = Annotated[float, Field(ge=1e-3, le=1e3)]
PositiveRange = Annotated[tuple[_Factor, _Factor], AfterValidator(ordered)]
NonNegativeRange = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1e3)], Annotated[float, Field(ge=0, le=1e3)]], AfterValidator(ordered)
]
AnyRange = Annotated[tuple[float, float], AfterValidator(ordered)]


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
    control_spacing_mm: Spacing = 12.0  # folds nothing where it is over 2.5 times the displacement


class ChangeArgs(Section):
    """A change of intensity; each kind's own arguments lie beside it, in data/sampling/intensity_changes.py."""

    probability: Probability = 0.0


class AugmentConfig(Section):
    """Augmentation of training samples; each draw depends on (seed, epoch, sample) alone."""

    flip: Flip = Flip()
    rotate: Rotate = Rotate()
    scale: Scale = Scale()
    elastic: Elastic = Elastic()
