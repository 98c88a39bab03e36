"""What a classifier sees of a volume: spacing, crop, intensities and augmentation."""

from collections.abc import Iterator

import numpy as np

from data.files.grid import Shape
from data.layouts.cases import some
from planning.proposal.classifier import BATCHES, Classifier, ClassifierInput, design_classifier
from planning.proposal.cohort import CROP_GAIN, DIRECTIONS, Cohort, box_share, median_minimum
from planning.proposal.network import coarse_axis, target_spacing
from planning.proposal.rules import Decision, decide, rotate

STEP = 8  # voxels that patches are whole multiples of
COARSER = 1.25  # each try, where volumes do not fit
MIN_PATCH = 16


def choose_volume_input(cohort: Cohort, memory_gb: float) -> ClassifierInput:
    """Choose whole volumes, at the spacing that fits the memory. Raises ValueError where not even small ones do."""
    cases, in_space = cohort.survey.usable, cohort.survey.config.data.source != "medmnist"
    same = len({facts.shape for facts in cases}) == 1
    share, why_crop = box_share(cases)
    spacings = np.array([facts.spacing_mm for facts in cases])
    crop = share < CROP_GAIN and not same
    boxes = np.array([facts.box if crop and facts.box else facts.shape for facts in cases])
    mm, shape, patch, network, coarsened = _fit(cohort, boxes, spacings if in_space else None, memory_gb)
    spacing = tuple(float(f"{n:.4g}") for n in mm)

    def decisions() -> Iterator[Decision]:
        if in_space:
            all_same = np.allclose(spacings, spacing, rtol=1e-3, atol=0)
            why = f"that of all {len(cases)} cases" if all_same else "the median of the cases'"
            why = "as fine as whole volumes fit the memory" if coarsened else why
            yield Decision("spacing_mm", list(spacing), f"(D, H, W): {why}")
        else:
            yield Decision("spacing_mm", None, "an archive's volumes have none")
        yield Decision("crop_nonzero", crop, "all volumes are of one shape, cut alike already" if same else why_crop)
        yield _normalise(crop, median_minimum(cases))
        voxels = f"{'×'.join(map(str, shape))} voxels"
        if coarsened and not in_space:
            why = f"what fits the memory of {voxels}: evaluation sees the centre alone"
        elif same and patch != shape:
            why = f"of {voxels}: training shifts the crop, evaluation takes the centre"
        else:
            why = f"holds nine volumes in ten whole, padded with 0: up to {voxels}"
        yield Decision("patch_size_voxels", list(patch), why)
        sided = cohort.classes_with(DIRECTIONS)
        why = f"{some(sided)} name sides" if sided else "classes may differ in left and right"
        yield Decision("augment.flip", {"probability": 0.0}, f"off: {why}; 0.5 where a mirror image is one of them")
        yield rotate(coarse_axis(spacing) if in_space else None, 0.5, 15, "slices are thick")
        yield Decision("augment.scale", {"probability": 0.3, "factor": [0.9, 1.1]})
        yield from decide("augment", {name: {"probability": 0.15} for name in ("noise", "brightness", "contrast")})

    batch_size = network.largest_batch(memory_gb, cohort.num_train)
    return ClassifierInput(network, batch_size, cohort.num_channels(), False, tuple(decide("data", decisions())))


def _fit(
    cohort: Cohort, boxes: np.ndarray, spacings: np.ndarray | None, memory_gb: float
) -> tuple[np.ndarray, Shape, Shape, Classifier, bool]:
    """Return spacing in mm, shape that holds nine volumes in ten, patch, network, and whether volumes had to shrink.

    `boxes` (cases, 3) are in voxels; without `spacings` (cases, 3) volumes are cropped rather than resampled.
    """
    usual = np.ones(3) if spacings is None else np.array(target_spacing(spacings))
    networks, least, factor, shrunk = cohort.survey.config.choices.networks, BATCHES[-2], 1.0, 0
    while True:
        mm = usual * factor
        sizes = boxes.astype(float) if spacings is None else np.maximum(np.rint(boxes * spacings / mm), 1)
        d, h, w = (int(n) for n in np.ceil(np.percentile(sizes, 90, axis=0)))
        patch = _patch((d, h, w), same=len({tuple(size) for size in sizes.tolist()}) == 1, shrunk=shrunk)
        network = design_classifier(networks, "volumes", patch, cohort.num_channels(), cohort.num_train)
        if network.training_gb(min(least, cohort.num_train)) <= memory_gb:
            return mm, (d, h, w), patch, network, factor > 1 or shrunk > 0
        if max(patch) <= MIN_PATCH:
            needed = network.training_gb(least)
            raise ValueError(f"--memory {memory_gb:g}: the smallest volumes need about {needed:.1f} GB")
        factor, shrunk = (1.0, shrunk + STEP) if spacings is None else (factor * COARSER, 0)


def _patch(shape: Shape, same: bool, shrunk: int) -> Shape:
    """Return the size of whole volumes, rounded up; of volumes cut alike an eighth less, to shift the crop."""
    if same:
        sizes = [n if n <= 32 else n * 7 // 8 // STEP * STEP for n in shape]
    else:
        sizes = [-(-n // STEP) * STEP for n in shape]
    d, h, w = (max(min(n, MIN_PATCH), n - shrunk) for n in sizes)
    return d, h, w


def _normalise(crop: bool, lowest: float) -> Decision:
    if crop:
        return Decision("normalisation", "zscore_nonzero", "the volumes have an empty border")
    if lowest < -500:
        why = f"the median minimum of {lowest:.0f} looks like CT: its outliers are clipped"
        return Decision("normalisation", "percentile", why)
    return Decision("normalisation", "zscore", "each volume by its own mean and deviation")
