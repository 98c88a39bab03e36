"""What a classifier sees of a volume: spacing, crop, intensities and augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.files.grid import Shape, Spacing
from data.layouts.cases import some
from planning.proposal.classifier import BATCHES, Classifier, design_resnet
from planning.proposal.cohort import CROP_GAIN, DIRECTIONS, Cohort, box_share, coarse_axis, median_minimum
from planning.proposal.network import target_spacing
from planning.proposal.rules import Decision

STEP = 8  # voxels that patches are whole multiples of
COARSER = 1.25  # each try, where volumes do not fit
MIN_PATCH = 16


@dataclass(frozen=True)
class VolumeInput:
    """The input, and the network for it."""

    spacing_mm: Spacing | None  # None: rows of an array, which have none
    crop: bool
    box_share: float  # of the median volume that is left without its empty border
    shape: Shape  # of the largest volumes but a tenth, at that spacing
    same: bool  # all volumes are of that shape
    patch: Shape
    coarsened: bool
    network: Classifier
    batch_size: int
    num_channels: int
    lowest: float  # the median volume's least value

    flipped = False

    def decisions(self, cohort: Cohort) -> Iterator[Decision]:
        """The keys of `data` that say what the network sees of a volume."""
        cases = cohort.survey.usable
        if self.spacing_mm is None:
            yield Decision("data.spacing_mm", None, "an archive's volumes have none")
        else:
            spacings = np.array([facts.spacing_mm for facts in cases])
            all_same = np.allclose(spacings, self.spacing_mm, rtol=1e-3, atol=0)
            why = f"that of all {len(cases)} cases" if all_same else "the median of the cases'"
            why = "as fine as whole volumes fit the memory" if self.coarsened else why
            yield Decision("data.spacing_mm", list(self.spacing_mm), f"(D, H, W): {why}")
        share = f"{100 * self.box_share:.0f} % of the median volume is left without its empty border"
        same = "all volumes are of one shape, cut alike already" if self.same else share
        yield Decision("data.crop_nonzero", self.crop, same)
        yield Decision("data.normalisation", *_normalisation(self))
        if self.coarsened and self.spacing_mm is None:
            why = f"what fits the memory of {_times(self.shape)} voxels: evaluation sees the centre alone"
        elif self.same and self.patch != self.shape:
            why = f"of {_times(self.shape)} voxels: training shifts the crop, evaluation takes the centre"
        else:
            why = f"holds nine volumes in ten whole, padded with 0: up to {_times(self.shape)} voxels"
        yield Decision("data.patch_size_voxels", list(self.patch), why)
        sided = cohort.classes_with(DIRECTIONS)
        sides = f"{some(sided)} tell sides" if sided else "left and right may tell classes apart"
        yield Decision(
            "data.augment.flip", {"probability": 0.0}, f"off: {sides}; 0.5 where a mirror image is one of them"
        )
        coarse = coarse_axis(self.spacing_mm)
        degrees = [[-15, 15] if coarse in (None, axis) else [0, 0] for axis in range(3)]
        why = "about D, H, W" if coarse is None else f"about {'DHW'[coarse]} alone: slices are thick"
        yield Decision("data.augment.rotate", {"probability": 0.5, "degrees": degrees}, why)
        yield Decision("data.augment.scale", {"probability": 0.3, "factor": [0.9, 1.1]})
        for name in ("noise", "brightness", "contrast"):
            yield Decision(f"data.augment.{name}", {"probability": 0.15})


def choose_volume_input(c: Cohort, memory_gb: float) -> VolumeInput:
    """Volumes whole, at the spacing that fits the memory. Raises ValueError where not even small ones do."""
    cases = c.survey.usable
    in_space = c.survey.config.data.source != "medmnist"
    shapes = {facts.shape for facts in cases}
    share = box_share(cases)
    crop = share < CROP_GAIN and len(shapes) > 1
    boxes = np.array([facts.box if crop and facts.box else facts.shape for facts in cases])
    spacings = np.array([facts.spacing_mm for facts in cases])
    spacing = target_spacing(spacings)
    num_channels = c.num_channels()
    least, factor, shrunk = BATCHES[-2], 1.0, 0
    while True:
        mm = np.array(spacing) * factor
        sizes = np.maximum(np.rint(boxes * spacings / mm), 1) if in_space else boxes.astype(float)
        d, h, w = (int(n) for n in np.ceil(np.percentile(sizes, 90, axis=0)))
        patch = _patch((d, h, w), same=len({tuple(size) for size in sizes.tolist()}) == 1, shrunk=shrunk)
        network = design_resnet(patch, num_channels, c.num_train)
        if network.training_gb(min(least, c.num_train)) <= memory_gb:
            break
        if max(patch) <= MIN_PATCH:
            needed = network.training_gb(least)
            raise ValueError(f"--memory {memory_gb:g}: the smallest volumes need about {needed:.1f} GB")
        factor, shrunk = (factor * COARSER, 0) if in_space else (1.0, shrunk + STEP)
    a, b, e = (float(f"{n:.4g}") for n in mm)
    return VolumeInput(
        (a, b, e) if in_space else None, crop, share, (d, h, w), len(shapes) == 1, patch, factor > 1 or shrunk > 0,
        network, network.largest_batch(memory_gb, c.num_train), num_channels, median_minimum(cases),
    )  # fmt: skip


def _patch(shape: Shape, same: bool, shrunk: int) -> Shape:
    """Whole volumes, rounded up; of volumes cut alike an eighth less, so that the crop can be shifted."""
    if same:
        sizes = [n if n <= 32 else n * 7 // 8 // STEP * STEP for n in shape]
    else:
        sizes = [-(-n // STEP) * STEP for n in shape]
    d, h, w = (max(min(n, MIN_PATCH), n - shrunk) for n in sizes)
    return d, h, w


def _normalisation(v: VolumeInput) -> tuple[str, str]:
    if v.crop:
        return "zscore_nonzero", "the volumes have an empty border"
    if v.lowest < -500:
        return "percentile", f"the median minimum of {v.lowest:.0f} looks like CT: its outliers are clipped"
    return "zscore", "each volume by its own mean and deviation"


def _times(values: Shape) -> str:
    return "×".join(map(str, values))
