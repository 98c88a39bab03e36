"""What a classifier sees of a clip: which frames, how large, in which colours, and augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.layouts.cases import some
from planning.proposal.classifier import Classifier, design_cnn, design_r3d
from planning.proposal.cohort import DIRECTIONS, Cohort
from planning.proposal.rules import Decision

MANY = 2000  # training clips from which on a deep network learns from the frames themselves
MOST_FRAMES = 16
USUAL_RATES = (10.0, 15.0)  # frames a second: actions rarely need more
SHORT_SIDES = (128, 96, 64)  # pixels


@dataclass(frozen=True)
class ClipInput:
    """The input, and the network for it."""

    frames: int
    frame_rate: float
    short_side: int
    crop: int
    clips: int  # segments in evaluation
    crops: int
    network: Classifier
    batch_size: int
    usual_s: float  # the median clip's length
    rates: tuple[float, float]  # the lowest and the highest frame rate
    flipped: bool

    @property
    def num_channels(self) -> int:
        return 3 if self.many else 1

    @property
    def many(self) -> bool:
        return self.network.name == "r3d_18"

    def decisions(self, cohort: Cohort) -> Iterator[Decision]:
        """The keys of `data.clip`."""
        why = f"{self.frames / self.frame_rate:.2g} s at this frame rate; the median clip lasts {self.usual_s:.2g} s"
        yield Decision("data.clip.frames", self.frames, why)
        low, high = self.rates
        stored = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        yield Decision("data.clip.frame_rate", self.frame_rate, f"the same for all, by time; stored at {stored}")
        yield Decision("data.clip.short_side_pixels", self.short_side, "frames are resized to this, their shape kept")
        yield Decision("data.clip.crop_pixels", [self.crop, self.crop], "random in training")
        if self.many:
            yield Decision("data.clip.input", "frames", "clips enough to learn from pictures")
            yield Decision("data.clip.colour", "rgb")
        else:
            why = (
                "between frames: of few clips, a network learns the scenes by heart; frames where looks tell the class"
            )
            yield Decision("data.clip.input", "differences", why)
            yield Decision("data.clip.colour", "grey")
            yield Decision("data.clip.std", [0.1], "that differences are divided by")
        yield Decision("data.clip.clips", self.clips, "segments over the clip, averaged in evaluation")
        yield Decision(
            "data.clip.crops", self.crops, "frames are wide: three crops see all of them" if self.crops > 1 else ""
        )
        if self.flipped:
            why = "left/right: no class names a side or a direction; 0 where one tells the class"
        else:
            why = f"off: {some(cohort.classes_with(DIRECTIONS))} tell a side or a direction"
        yield Decision("data.clip.augment.flip", 0.5 if self.flipped else 0.0, why)
        yield Decision("data.clip.augment.zoom", [0.85, 1.2])
        yield Decision("data.clip.augment.aspect", [0.8, 1.25])
        yield Decision("data.clip.augment.speed", [0.8, 1.25])
        yield Decision("data.clip.augment.brightness", [0.7, 1.3])
        yield Decision("data.clip.augment.contrast", [0.7, 1.3])


def choose_clip_input(c: Cohort, memory_gb: float) -> ClipInput:
    """Frames of what most clips have. Raises ValueError where the memory is too small for the smallest."""
    read = c.survey.usable
    rates = [facts.frame_rate for facts in read]
    lengths = [facts.duration_s for facts in read]
    usual = float(np.median(lengths))
    wanted = float(np.clip(MOST_FRAMES / usual, *USUAL_RATES))  # slow enough to see the whole of a usual clip
    rate = float(f"{min(float(np.percentile(rates, 5)), wanted):.3g}")
    whole = round(float(np.percentile(lengths, 10)) * rate)
    frames = int(np.clip(whole // 4 * 4, 4, MOST_FRAMES)) if whole >= 4 else max(whole, 2)
    span = frames / rate
    clips = 1 if usual <= 1.1 * span else int(min(5, 1 + np.ceil(usual / span)))
    stored = int(np.median([min(facts.width, facts.height) for facts in read]))
    wide = float(np.median([max(f.width, f.height) / min(f.width, f.height) for f in read]))
    many = c.num_train >= MANY
    sides = [side for side in SHORT_SIDES if side <= stored] or [stored]
    if not many and len(sides) > 1 and sides[0] == SHORT_SIDES[0]:
        sides = sides[1:]
    for side in sides:
        crop = max(side * 7 // 8 // 8 * 8, min(side, 16))
        network = (design_r3d if many else design_cnn)((frames, crop, crop), 3 if many else 1, c.num_train)
        batch_size = network.largest_batch(memory_gb, c.num_train)
        if network.training_gb(batch_size) <= memory_gb:
            break
    else:
        raise ValueError(
            f"--memory {memory_gb:g}: the smallest clips need about {network.training_gb(batch_size):.1f} GB"
        )
    if not many:
        batch_size = min(batch_size, 8 if c.num_train < 500 else 16)
    return ClipInput(
        frames, rate, side, crop, clips, 3 if wide > 1.2 else 1, network, batch_size, usual, (min(rates), max(rates)),
        flipped=not c.classes_with(DIRECTIONS),
    )  # fmt: skip
