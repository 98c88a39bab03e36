"""What a classifier sees of a clip: which frames, how large, in which colours, and augmentation."""

from collections.abc import Iterator

import numpy as np

from data.files.images import RATE
from data.layouts.cases import some
from planning.proposal.classifier import Classifier, ClassifierInput, design_classifier
from planning.proposal.cohort import DIRECTIONS, Cohort
from planning.proposal.rules import MANY_CLIPS, Decision, decide

MOST_FRAMES = 16
USUAL_RATES = (10.0, 15.0)  # frames a second: actions rarely need more
SHORT_SIDES = (128, 96, 64)  # pixels
DIFFERENCES = "between frames: a network memorises the scenes of few clips; set frames where looks show the class"
AUGMENT = {
    "zoom": [0.85, 1.2], "aspect": [0.8, 1.25], "speed": [0.8, 1.25], "brightness": [0.7, 1.3], "contrast": [0.7, 1.3],
}  # fmt: skip


def choose_clip_input(cohort: Cohort, memory_gb: float) -> ClassifierInput:
    """Choose frames that most clips have. Raises ValueError where the memory is too small for the smallest."""
    lengths = [facts.duration_s for facts in cohort.survey.usable]
    rates = [facts.frame_rate for facts in cohort.survey.usable]
    usual = float(np.median(lengths))
    wanted = float(np.clip(MOST_FRAMES / usual, *USUAL_RATES))  # slow enough to see the whole of a usual clip
    rate = float(f"{min(float(np.percentile(rates, 5)), wanted):.3g}")
    whole = round(float(np.percentile(lengths, 10)) * rate)
    frames = int(np.clip(whole // 4 * 4, 4, MOST_FRAMES)) if whole >= 4 else max(whole, 2)
    side, crop, network, batch_size = _fit(cohort, frames, memory_gb)
    sided = cohort.classes_with(DIRECTIONS)

    def decisions() -> Iterator[Decision]:
        span, low, high = frames / rate, f"{min(rates):.3g}", f"{max(rates):.3g}"
        yield Decision("frames", frames, f"{span:.2g} s at this frame rate; the median clip lasts {usual:.2g} s")
        if any(not facts.timed for facts in cohort.survey.usable):
            asked = cohort.survey.config.data.clip
            said = asked.image_frame_rate if asked is not None else None
            why = "frames a second of the clips stored as images" + ("" if said else ": assumed, so correct it")
            yield Decision("image_frame_rate", said or RATE, why)
        stored = low if low == high else f"{low} to {high}"
        yield Decision("frame_rate", rate, f"the same for all, by time; stored at {stored}")
        yield Decision("short_side_pixels", side, "frames are resized to this, their shape kept")
        yield Decision("crop_pixels", [crop, crop], "random in training")
        if cohort.num_train >= MANY_CLIPS:
            yield Decision("input", "frames", "clips enough to learn from pictures")
            yield Decision("colour", "rgb")
        else:
            yield Decision("input", "differences", DIFFERENCES)
            yield Decision("colour", "grey")
            yield Decision("std", [0.1], "that differences are divided by")
        clips = 1 if usual <= 1.1 * span else int(min(5, 1 + np.ceil(usual / span)))
        yield Decision("clips", clips, "segments over the clip, averaged in evaluation")
        shapes = [max(f.width, f.height) / min(f.width, f.height) for f in cohort.survey.usable]
        wide = float(np.median(shapes)) > 1.2
        yield Decision("crops", 3 if wide else 1, "frames are wide: three crops see all of them" if wide else "")
        if sided:
            yield Decision("augment.flip", 0.0, f"off: {some(sided)} name a side or a direction")
        else:
            why = "left/right: no class names a side or a direction; 0 where the class depends on one"
            yield Decision("augment.flip", 0.5, why)
        yield from decide("augment", AUGMENT)

    num_channels = 3 if cohort.num_train >= MANY_CLIPS else 1
    return ClassifierInput(network, batch_size, num_channels, not sided, tuple(decide("data.clip", decisions())))


def _fit(cohort: Cohort, frames: int, memory_gb: float) -> tuple[int, int, Classifier, int]:
    """Return short side and crop in pixels, the network for them, and the batch size."""
    many, networks = cohort.num_train >= MANY_CLIPS, cohort.survey.config.choices.networks
    stored = int(np.median([min(facts.width, facts.height) for facts in cohort.survey.usable]))
    sides = [side for side in SHORT_SIDES if side <= stored] or [stored]
    if not many and len(sides) > 1 and sides[0] == SHORT_SIDES[0]:
        sides = sides[1:]
    for side in sides:
        crop = max(side * 7 // 8 // 8 * 8, min(side, 16))
        network = design_classifier(networks, "clips", (frames, crop, crop), 3 if many else 1, cohort.num_train)
        batch_size = network.largest_batch(memory_gb, cohort.num_train)
        if network.training_gb(batch_size) <= memory_gb:
            most = batch_size if many else 8 if cohort.num_train < 500 else 16
            return side, crop, network, min(batch_size, most)
    raise ValueError(f"--memory {memory_gb:g}: the smallest clips need about {network.training_gb(batch_size):.1f} GB")
