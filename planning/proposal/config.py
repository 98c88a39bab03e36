"""A survey turned into a config: each decision with its reason, in the spirit of nnU-Net (Isensee et al. 2021)."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from data.layouts.cases import some
from planning.proposal.common import count_workers, describe_source, run_name, share_out
from planning.proposal.fingerprint import CASES_SHARE, Measured, measure
from planning.proposal.rules import Decision, Plan
from planning.survey.survey import Survey

PASSES = 75  # over the training cases


def plan_segmentation(survey: Survey, memory_gb: float) -> Plan:
    """A config for the surveyed data, training within about `memory_gb` by estimate.

    Raises ValueError where there is nothing to train on: too few labelled cases, no classes, too little memory.
    """
    measured = measure(survey, memory_gb)
    name = run_name(survey)
    head = [
        f"Planned from {len(measured.cases)} labelled cases of {survey.config.data.root}; every value can be changed.",
        "  python train.py --config FILE --dry-run    checks it, shows a batch, tells memory and time",
        "  python train.py --config FILE",
        f"  python evaluate.py --run runs/{name}",
        f"Memory: about {measured.step_gb:.1f} GB for a training step by estimate, {measured.held_gb:.2g} GB for the "
        f"cases, of the {memory_gb:g} GB allowed.",
        "Result: not yet measured.",
    ]
    decisions = [Decision("name", name, "the run's folder is runs/NAME")]
    for section in (_reading, _preparing, _sampling, _augmenting, _model, _training, _evaluating):
        decisions += section(measured)
    return Plan(
        tuple(head),
        tuple(decisions),
        "segmentation",
        measured.num_channels,
        measured.num_train,
        survey.class_names,
    )


def _reading(m: Measured) -> Iterator[Decision]:
    yield from describe_source(m.survey)
    yield from share_out(m.survey, m.split, m.num_train, m.num_val)


def _preparing(m: Measured) -> Iterator[Decision]:
    spacings = np.array([facts.spacing_mm for facts in m.cases])
    middle, finest, coarsest = np.median(spacings, axis=0), spacings.min(axis=0), spacings.max(axis=0)
    if np.allclose(spacings, m.spacing_mm, rtol=1e-3, atol=0):
        why = f"(D, H, W): that of all {len(m.cases)} cases"
    else:
        why = f"(D, H, W): the median of {_times(finest)} to {_times(coarsest)} mm"
        if not np.allclose(middle, m.spacing_mm, rtol=1e-3, atol=0):
            why += f", {_times(middle)}; its coarse axis the 10th percentile"
    yield Decision("data.spacing_mm", list(m.spacing_mm), why)
    share = f"{100 * m.box_share:.0f} % of the median volume is left without its empty border"
    yield Decision("data.crop_nonzero", m.crop, share)
    yield Decision("data.normalisation", *_choose_normalisation(m))


def _choose_normalisation(m: Measured) -> tuple[str, str]:
    names = m.survey.channel_names
    said = f"the modality is {', '.join(names)}" if names else "no modality is named"
    if m.is_ct:
        return "ct", f"{said}: Hounsfield units mean the same in every case"
    if m.crop:
        return "zscore_nonzero", f"{said}, and the volumes have an empty border"
    lowest = float(np.median([min(channel.low for channel in facts.voxels or ()) for facts in m.cases]))
    if not names and lowest < -500:
        return "zscore", f"{said}; the median minimum of {lowest:.0f} looks like CT: if it is, set ct"
    return "zscore", f"{said}: intensities have no common unit"


def _sampling(m: Measured) -> Iterator[Decision]:
    said = f"the median case has {_times(m.shape)} voxels at this spacing"
    why = f"holds it whole: {said}" if m.whole else f"what fits the memory: {said}"
    yield Decision("data.patch_size_voxels", list(m.network.patch), why)
    share = f"{100 * m.foreground_share:.2g} % of the voxels are foreground"
    if m.whole:
        yield Decision("data.foreground_rate", 0.0, f"patches hold whole cases; {share}")
    else:
        rate = 0.5 if m.foreground_share < 0.001 else 0.33
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
        why = "W alone: left and right mirror, but no RAS+ volume stands on its head"
        yield Decision("data.augment.flip", {"probability": 0.5, "axes": [2]}, why)
    coarse = m.coarse_axis
    degrees = [[-20, 20] if coarse in (None, axis) else [0, 0] for axis in range(3)]
    why = "about D, H, W"
    if coarse is not None:
        ratio = m.spacing_mm[coarse] / min(m.spacing_mm)
        why = f"about {'DHW'[coarse]} alone: slices are {ratio:.1f} times as thick as wide"
    yield Decision("data.augment.rotate", {"probability": 0.25, "degrees": degrees}, why)
    yield Decision("data.augment.scale", {"probability": 0.25, "factor": [0.85, 1.2]})
    for name in ("noise", "brightness", "contrast", "gamma"):
        yield Decision(f"data.augment.{name}", {"probability": 0.15})


def _model(m: Measured) -> Iterator[Decision]:
    network = m.network
    lowest = [p // s for p, s in zip(network.patch, np.prod(network.strides, axis=0), strict=True)]
    yield Decision("model.name", "unet3d")
    why = f"{len(network.widths)} levels: the lowest has {_times(lowest)} voxels"
    yield Decision("model.args.widths", list(network.widths), why)
    why = f"into each level, along (D, H, W); voxels are {_times(m.spacing_mm)} mm"
    yield Decision("model.args.strides", [list(stride) for stride in network.strides], why)
    why = "of each level: 1 across an axis more than twice as coarse as the finest"
    yield Decision("model.args.kernels", [list(kernel) for kernel in network.kernels], why)
    yield Decision("model.args.deep_supervision", len(network.widths) > 2, "a loss at every level on the way up")
    dropout = {"kind": "channel", "rate": 0.1, "places": ["bottleneck"]}
    yield Decision("model.args.dropout", dropout, "where the network has most weights")


def _training(m: Measured) -> Iterator[Decision]:
    yield Decision("loss.name", "dice_ce", "Dice for overlap whatever the size, cross-entropy for smooth gradients")
    yield Decision("loss.batch_dice", True, "one Dice over the batch: a patch may lack a class")
    if m.survey.config.loss.ignore_label is not None:
        yield Decision("loss.ignore_label", m.survey.config.loss.ignore_label, "the source's own")
    views = min(4.0, max(1.0, math.prod(m.shape) / math.prod(m.network.patch)))
    steps = min(10_000, max(1000, PASSES * views * m.num_train / m.batch_size))
    steps = 100 * round(steps / 100)
    yield Decision("optim.name", "adamw")
    yield Decision("optim.learning_rate", 0.002, "falls to 0 along a cosine")
    yield Decision("optim.warmup_steps", 50)
    decay = 0.998 if steps >= 2000 else 0.99
    yield Decision("optim.ema_decay", decay, f"weights are averaged over about the last {1 / (1 - decay):.0f} steps")
    passes = steps * m.batch_size / m.num_train
    yield Decision("train.steps", steps, f"{passes:.0f} passes over {m.num_train} cases; more is better, if slowly")
    yield Decision("train.batch_size", m.batch_size, f"a step takes about {m.step_gb:.1f} GB")
    yield Decision("train.precision", "auto", "bfloat16 where the device computes it, which is faster; else float32")


def _evaluating(m: Measured) -> Iterator[Decision]:
    yield Decision("evaluate.overlap", 0.5, "of neighbouring windows")
    why = "flipping W at test time as well ([2]) costs twice the time" if not m.sided_classes else "training flips none"
    yield Decision("evaluate.mirror_axes", [], why)
    finest = float(f"{min(m.spacing_mm):.2g}")
    yield Decision("evaluate.nsd_tolerance_mm", finest, "a voxel along the finest axis")
    if m.num_val > 20:
        yield Decision("evaluate.validation_cases", 20, f"during training: enough of the {m.num_val} to follow it")


def _times(values: Any) -> str:
    return "×".join(f"{value:.3g}" for value in values)
