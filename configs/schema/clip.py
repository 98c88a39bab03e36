"""The `data.clip` section: which frames of a video become the network's input. For video D is time."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.augment import PositiveRange
from configs.schema.types import INPUT, Positive, Probability, Section, Side

Colour = tuple[float, ...]  # one for all channels, or one each of red, green and blue


class ClipAugment(Section):
    """Random changes of training clips, one draw for all frames of a clip; a range of [1, 1] is off.

    Zoom, aspect and speed are drawn evenly in their logarithms.
    """

    flip: Probability = 0.0  # left/right; off, as it turns moving left into moving right
    zoom: PositiveRange = (1.0, 1.0)  # of the cut-out, enlarged or reduced to crop_pixels; above 1 enlarges
    aspect: PositiveRange = (1.0, 1.0)  # width over height of the cut-out, against crop_pixels
    speed: PositiveRange = (1.0, 1.0)  # of the motion: 2 takes frames twice as far apart
    brightness: PositiveRange = (1.0, 1.0)  # factor
    contrast: PositiveRange = (1.0, 1.0)  # factor about the clip's mean
    saturation: PositiveRange = (1.0, 1.0)  # factor about each pixel's grey


class Clip(Section):
    """Frames are decoded once, resized, and kept as uint8 in the cache; clips are cut from there.

    Training takes a random segment and a random crop of it; evaluation `clips` evenly spaced segments times
    `crops` places, whose predictions are averaged.
    """

    frames: Annotated[Side, INPUT] = 16
    # Frames a second, by the frames' timestamps; null: as stored, by `stride`
    frame_rate: Annotated[Positive | None, INPUT] = None
    stride: Annotated[Side, INPUT] = 1  # every n-th frame as stored; only where frame_rate is null
    short_side_pixels: Annotated[Side, INPUT] = 128  # frames are resized to this, their shape kept
    crop_pixels: Annotated[tuple[Side, Side], INPUT] = (112, 112)  # (H, W)
    # Clips shorter than asked: hold the last frame, or begin anew
    short: Annotated[Literal["hold", "loop", "error"], INPUT] = "hold"
    single_frame: Annotated[bool, INPUT] = False  # one frame, repeated: the baseline that sees no motion

    # differences: each frame less the one before it
    input: Annotated[Literal["frames", "differences"], INPUT] = "frames"
    colour: Annotated[Literal["rgb", "grey"], INPUT] = "rgb"
    mean: Annotated[Colour, INPUT] = (0.45,)  # taken off pixels of 0..1; differences have none taken off
    std: Annotated[Colour, INPUT] = (0.225,)  # then divided by

    clips: Annotated[int, Field(ge=1, le=1000)] = 1  # segments in evaluation; 1 is the middle one
    crops: Literal[1, 3] = 1  # in evaluation: the centre, or three along the longer side
    augment: ClipAugment = ClipAugment()

    @property
    def num_channels(self) -> int:
        return 3 if self.colour == "rgb" else 1

    @property
    def input_size(self) -> tuple[int, int, int]:
        """What the network sees: (D, H, W), D being time."""
        return self.frames, *self.crop_pixels

    @model_validator(mode="after")
    def _parts_agree(self) -> "Clip":
        if max(self.crop_pixels) > self.short_side_pixels:
            raise ValueError(
                f"short_side_pixels={self.short_side_pixels} must be at least {max(self.crop_pixels)}, the longer "
                f"side of crop_pixels={list(self.crop_pixels)}"
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.num_channels):
                raise ValueError(f"{key} has {len(values)} values; colour={self.colour} needs 1 or {self.num_channels}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0; got {list(self.std)}")
        if self.frame_rate is not None and self.stride != 1:
            raise ValueError(f"set frame_rate or stride, not both; got {self.frame_rate} and {self.stride}")
        if self.single_frame and self.input == "differences":
            raise ValueError("single_frame has no differences between frames; use input=frames")
        return self
