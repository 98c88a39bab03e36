"""Rules for cases whose labels are volumes: a U-Net, in the spirit of nnU-Net (Isensee et al. 2021)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.files.grid import Shape, Spacing
from data.layouts.cases import some
from planning.proposal.cohort import CROP_GAIN, SIDE_WORDS, Cohort, box_share, gather_cohort, median_minimum, words_of
from planning.proposal.common import make_plan
from planning.proposal.network import (
    Network,
    coarse_axis,
    design_network,
    few_voxels,
    fits,
    target_spacing,
    training_gb,
)
from planning.proposal.rules import (
    PRECISION,
    Decision,
    Plan,
    average_weights,
    choose_network,
    count_workers,
    decide,
    mirror,
    rotate,
)
from planning.survey.format import times
from planning.survey.label_volumes import advise_map, count_voxels
from planning.survey.survey import Survey

LEAST_CASES = 2
MAX_BATCH = 4
MAX_BATCH_SHARE = 0.05  # of the training voxels, as nnU-Net has it
CASES_SHARE = 0.25  # of the memory: prepared cases are held in it up to that
PASSES = 75  # over the training cases
CT_WORDS = {"ct", "cta"}


@dataclass(frozen=True)
class Measured:
    """The numbers that the decisions follow from."""

    cohort: Cohort
    num_channels: int
    spacing_mm: Spacing  # to resample to
    shape: Shape  # of the median case at that spacing, cropped where `crop`
    crop: bool
    box_words: str  # how much of the median volume is left without its empty border
    cases_gb: float  # of the prepared training cases
    held_gb: float  # of them in memory while training: all, or none where they would take too much
    memory_gb: float  # budget
    network: Network
    batch_size: int

    @property
    def step_gb(self) -> float:
        """Estimated peak memory of a training step, without the cases."""
        num_classes = len(self.cohort.survey.class_names)
        return training_gb(self.network, self.batch_size, self.num_channels, num_classes)

    @property
    def whole(self) -> bool:
        """Whether a patch holds the median case."""
        return all(p >= n for p, n in zip(self.network.patch, self.shape, strict=True))

    @property
    def thin_axis(self) -> int | None:
        """The axis along which the median case has too few voxels to convolve across, if there is one."""
        few = few_voxels(self.shape)
        return int(few.argmax()) if few.any() else None

    @property
    def sided_classes(self) -> list[str]:
        """The classes whose names hold a side."""
        return self.cohort.classes_with(SIDE_WORDS)


def plan_label_volumes(survey: Survey, memory_gb: float) -> Plan:
    """Plan as `plan_config` does."""
    m = _measure(survey, memory_gb)
    memory = (
        f"{m.step_gb:.1f} GB for a training step by estimate, {m.held_gb:.2g} GB for the cases, of the {memory_gb:g}"
    )
    sections = (_preparing, _sampling, _augmenting, _model, _training, _evaluating)
    rest = [decision for section in sections for decision in section(m)]
    return make_plan(m.cohort, f"{len(m.cohort.cases)} labelled cases", memory, m.num_channels, [], rest)


def _measure(survey: Survey, memory_gb: float) -> Measured:
    """Choose spacing, shape, network and batch size."""
    cohort = gather_cohort(survey, LEAST_CASES)
    if len(survey.class_names) < 2 and survey.config.data.regions is None:
        values = sorted(count_voxels(survey.cases))
        raise ValueError(
            f"{survey.config.data.root}: label values {some(values)} cannot be classes: renumber them 0 (background), "
            f"1, 2 …; {advise_map(values)}"
        )
    cases, num_channels, num_classes = cohort.cases, cohort.num_channels(), len(survey.class_names)
    spacing = target_spacing(np.array([facts.spacing_mm for facts in cases]))
    share, box_words = box_share(cases)
    crop = share < CROP_GAIN and not _is_ct(survey)
    boxes = np.array([facts.box if crop and facts.box else facts.shape for facts in cases])
    sizes = np.maximum(np.rint(boxes * [facts.spacing_mm for facts in cases] / np.array(spacing)), 1)  # (cases, 3)
    d, h, w = (int(n) for n in np.ceil(np.median(sizes, axis=0)))
    train_voxels = float(sizes.prod(axis=1).mean()) * cohort.num_train
    cases_gb = train_voxels * (4 * num_channels + 1) / 1e9  # float32 channels and a uint8 label
    held_gb = cases_gb if cases_gb <= memory_gb * CASES_SHARE else 0.0
    free_gb = memory_gb - held_gb

    network = design_network((d, h, w), spacing, num_channels, num_classes, free_gb)
    most = min(MAX_BATCH, max(2, int(MAX_BATCH_SHARE * train_voxels / math.prod(network.patch))), cohort.num_train)
    batches = [n for n in range(1, most + 1) if fits(network, n, num_channels, num_classes, free_gb)]
    return Measured(
        cohort, num_channels, spacing, (d, h, w), crop, box_words, cases_gb, held_gb, memory_gb, network, batches[-1]
    )


def _is_ct(survey: Survey) -> bool:
    """Return whether the source says that every channel is CT."""
    names = survey.channel_names or ()
    return bool(names) and all(words_of(name) & CT_WORDS for name in names)


def _preparing(m: Measured) -> Iterator[Decision]:
    spacings = np.array([facts.spacing_mm for facts in m.cohort.cases])
    middle, finest, coarsest = np.median(spacings, axis=0), spacings.min(axis=0), spacings.max(axis=0)
    if np.allclose(spacings, m.spacing_mm, rtol=1e-3, atol=0):
        why = f"(D, H, W): that of all {len(m.cohort.cases)} cases"
    else:
        why = f"(D, H, W): the median of {times(finest)} to {times(coarsest)} mm"
        if not np.allclose(middle, m.spacing_mm, rtol=1e-3, atol=0):
            why += f", {times(middle)}; its coarse axis the 10th percentile"
    yield Decision("data.spacing_mm", list(m.spacing_mm), why)
    yield Decision("data.crop_nonzero", m.crop, m.box_words)
    yield Decision("data.normalisation", *_choose_normalisation(m))


def _choose_normalisation(m: Measured) -> tuple[str, str]:
    names = m.cohort.survey.channel_names
    said = f"the modality is {', '.join(names)}" if names else "no modality is named"
    if _is_ct(m.cohort.survey):
        return "ct", f"{said}: Hounsfield units mean the same in every case"
    if m.crop:
        return "zscore_nonzero", f"{said}, and the volumes have an empty border"
    lowest = median_minimum(m.cohort.cases)
    if not names and lowest < -500:
        return "zscore", f"{said}; the median minimum of {lowest:.0f} looks like CT: if it is, set ct"
    return "zscore", f"{said}: intensities have no common unit"


def _sampling(m: Measured) -> Iterator[Decision]:
    said = f"the median case has {times(m.shape)} voxels at this spacing"
    why = f"holds it whole: {said}" if m.whole else f"what fits the memory: {said}"
    if m.thin_axis is not None:
        why = f"one along {'DHW'[m.thin_axis]}, of which volumes have few: {said}"
    yield Decision("data.patch_size_voxels", list(m.network.patch), why)
    foreground = _foreground_share(m.cohort.survey)
    share = f"{100 * foreground:.2g} % of the voxels are foreground"
    if m.whole:
        yield Decision("data.foreground_rate", 0.0, f"patches hold whole cases; {share}")
    else:
        rate = 0.5 if foreground < 0.001 else 0.33
        yield Decision("data.foreground_rate", rate, f"of the patches are centred on a class; {share}")
    place = "held in memory" if m.held_gb else "read from disk"
    why = f"prepared, the training cases take {m.cases_gb:.2g} GB: {place}"
    yield Decision("data.cache.memory_gb", round(m.memory_gb * CASES_SHARE, 3), why)
    yield count_workers()


def _augmenting(m: Measured) -> Iterator[Decision]:
    if m.sided_classes:
        why = f"off: a mirror image swaps the sides of {some(m.sided_classes)}"
        yield Decision("data.augment.flip", {"probability": 0.0}, why)
    else:
        why = "W alone: left and right mirror, but no RAS+ volume is upside down"
        yield Decision("data.augment.flip", {"probability": 0.5, "axes": [2]}, why)
    ratio = max(m.spacing_mm) / min(m.spacing_mm)
    axis, why = coarse_axis(m.spacing_mm), f"slices are {ratio:.1f} times as thick as wide"
    if m.thin_axis is not None:
        axis, why = m.thin_axis, f"patches are one voxel along {'DHW'[m.thin_axis]}"
    yield from decide("data", [rotate(axis, 0.25, 20, why)])
    yield Decision("data.augment.scale", {"probability": 0.25, "factor": [0.85, 1.2]})
    names = ("noise", "brightness", "contrast", "gamma")
    yield from decide("data.augment", {name: {"probability": 0.15} for name in names})


def _model(m: Measured) -> Iterator[Decision]:
    network = m.network
    lowest = [p // s for p, s in zip(network.patch, np.prod(network.strides, axis=0), strict=True)]
    yield Decision("model.name", choose_network("label volumes", m.cohort.num_train).name)
    why = f"{len(network.widths)} levels: the lowest has {times(lowest)} voxels"
    yield Decision("model.args.widths", list(network.widths), why)
    why = f"into each level, along (D, H, W); voxels are {times(m.spacing_mm)} mm"
    yield Decision("model.args.strides", [list(stride) for stride in network.strides], why)
    why = "of each level: 1 across an axis more than twice as coarse as the finest, or of few voxels"
    yield Decision("model.args.kernels", [list(kernel) for kernel in network.kernels], why)
    yield Decision("model.args.deep_supervision", len(network.widths) > 2, "a loss at every level on the way up")
    dropout = {"kind": "channel", "rate": 0.1, "places": ["bottleneck"]}
    yield Decision("model.args.dropout", dropout, "where the network has most weights")


def _training(m: Measured) -> Iterator[Decision]:
    yield Decision("loss.name", "dice_ce", "Dice for overlap whatever the size, cross-entropy for smooth gradients")
    yield Decision("loss.batch_dice", True, "one Dice over the batch: a patch may lack a class")
    if m.cohort.survey.config.loss.ignore_label is not None:
        yield Decision("loss.ignore_label", m.cohort.survey.config.loss.ignore_label, "the source's own")
    views = min(4.0, max(1.0, math.prod(m.shape) / math.prod(m.network.patch)))
    steps = min(10_000, max(1000, PASSES * views * m.cohort.num_train / m.batch_size))
    steps = 100 * round(steps / 100)
    yield Decision("optim.name", "adamw")
    yield Decision("optim.learning_rate", 0.002, "falls to 0 along a cosine")
    yield Decision("optim.warmup_steps", 50)
    decay = 0.998 if steps >= 2000 else 0.99
    yield average_weights(decay)
    passes = steps * m.batch_size / m.cohort.num_train
    yield Decision(
        "train.steps", steps, f"{passes:.0f} passes over {m.cohort.num_train} cases; more helps, though little"
    )
    yield Decision("train.batch_size", m.batch_size, f"a step takes about {m.step_gb:.1f} GB")
    yield PRECISION


def _evaluating(m: Measured) -> Iterator[Decision]:
    yield Decision("evaluate.overlap", 0.5, "of neighbouring windows")
    yield mirror(flipped=not m.sided_classes)
    finest = float(f"{min(m.spacing_mm):.2g}")
    yield Decision("evaluate.nsd_tolerance_mm", finest, "a voxel along the finest axis")
    if m.cohort.num_val > 20:
        yield Decision(
            "evaluate.validation_cases", 20, f"during training: enough of the {m.cohort.num_val} to follow it"
        )


def _foreground_share(survey: Survey) -> float:
    """Return voxels of a class but background, of all that are not ignored."""
    voxels = count_voxels(survey.cases)
    total = sum(count for value, count in voxels.items() if value != survey.config.loss.ignore_label)
    return 1 - voxels[0] / max(1, total)
