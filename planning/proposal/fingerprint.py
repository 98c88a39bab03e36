"""What planning a config starts from: the numbers of a survey, and the network, split and batch they lead to."""

import math
import re
from dataclasses import dataclass

import numpy as np

from configs.schema.data import Split
from data.files.grid import Shape, Spacing
from data.layouts.cases import some
from data.splits import make_splits
from planning.proposal.network import ANISOTROPIC, Network, design_network, fits, target_spacing, training_gb
from planning.survey.case_summary import CaseFacts, scan_of
from planning.survey.survey import Survey

MAX_BATCH = 4
MAX_BATCH_SHARE = 0.05  # of the training voxels, as nnU-Net has it
CASES_SHARE = 0.25  # of the memory: prepared cases are held in it up to that
CROP_GAIN = 0.75  # crop where less than this share of a volume is left without its empty border, as nnU-Net does
SIDE_WORDS = {"left", "right", "l", "r", "lt", "rt", "lh", "rh"}
CT_WORDS = {"ct", "cta"}


@dataclass(frozen=True)
class Measured:
    """The numbers that the decisions follow from, over the cases that can be trained on."""

    survey: Survey
    cases: tuple[CaseFacts, ...]  # usable and labelled
    split: Split
    num_train: int
    num_val: int
    num_channels: int
    spacing_mm: Spacing  # to resample to
    shape: Shape  # of the median case at that spacing, cropped where `crop`
    crop: bool
    box_share: float  # of the median volume that is left without its empty border
    foreground_share: float  # of all labelled voxels
    cases_gb: float  # of the prepared training cases
    held_gb: float  # of them in memory while training: all, or none where they would take too much
    memory_gb: float  # budget
    network: Network
    batch_size: int

    @property
    def step_gb(self) -> float:
        """Estimated peak memory of a training step, without the cases."""
        return training_gb(self.network, self.batch_size, self.num_channels, len(self.survey.class_names))

    @property
    def whole(self) -> bool:
        """Whether a patch holds the median case."""
        return all(p >= n for p, n in zip(self.network.patch, self.shape, strict=True))

    @property
    def coarse_axis(self) -> int | None:
        """The axis of thick slices, if there is one."""
        axis = int(np.argmax(self.spacing_mm))
        return axis if self.spacing_mm[axis] > ANISOTROPIC * min(self.spacing_mm) else None

    @property
    def sided_classes(self) -> list[str]:
        """The classes whose names tell left from right."""
        return [name for name in self.survey.class_names if words(name) & SIDE_WORDS]

    @property
    def is_ct(self) -> bool:
        """Whether the source says that every channel is CT."""
        return _is_ct(self.survey)


def measure(survey: Survey, memory_gb: float) -> Measured:
    """Choose spacing, shape, network and batch size. Raises ValueError as `plan_text` does."""
    config, root = survey.config, survey.config.data.root
    cases = tuple(facts for facts in survey.usable if facts.case.label is not None)
    if len(cases) < 2:
        raise ValueError(
            f"{root}: {len(cases)} labelled cases that can be used, planning needs 2 at least; "
            f"python -m planning.inspect {root} tells what was found"
        )
    if len(survey.class_names) < 2:
        values = some(sorted(survey.label_voxels))
        raise ValueError(f"{root}: label values {values} are no classes: number them 0 (background), 1, 2 … first")
    split = _choose_split(survey, cases)
    train, val = _draw(survey, split, {facts.case.id for facts in cases})
    channels = config.data.channels
    num_channels, num_classes = cases[0].num_channels if channels is None else len(channels), len(survey.class_names)

    spacing = target_spacing(np.array([facts.spacing_mm for facts in cases]))
    shares = [math.prod(facts.box or facts.shape) / math.prod(facts.shape) for facts in cases]
    box_share = float(np.median(shares))
    crop = box_share < CROP_GAIN and not _is_ct(survey)
    boxes = np.array([facts.box if crop and facts.box else facts.shape for facts in cases])
    sizes = np.maximum(np.rint(boxes * [facts.spacing_mm for facts in cases] / np.array(spacing)), 1)  # (cases, 3)
    d, h, w = (int(n) for n in np.ceil(np.median(sizes, axis=0)))
    train_voxels = float(sizes.prod(axis=1).mean()) * train
    cases_gb = train_voxels * (4 * num_channels + 1) / 1e9  # float32 channels and a uint8 label
    held_gb = cases_gb if cases_gb <= memory_gb * CASES_SHARE else 0.0
    free_gb = memory_gb - held_gb

    network = design_network((d, h, w), spacing, num_channels, num_classes, free_gb)
    share = int(MAX_BATCH_SHARE * train_voxels / math.prod(network.patch))
    most = min(MAX_BATCH, max(2, share), train)
    batches = [n for n in range(1, most + 1) if fits(network, n, num_channels, num_classes, free_gb)]
    return Measured(
        survey, cases, split, train, val, num_channels, spacing, (d, h, w), crop, box_share,
        _foreground_share(survey), cases_gb, held_gb, memory_gb, network, batches[-1],
    )  # fmt: skip


def _draw(survey: Survey, split: Split, usable: set[str]) -> tuple[int, int]:
    """How many usable cases the first fold trains and validates on, drawn as training will."""
    splits = make_splits([scan_of(facts.case) for facts in survey.cases], split, 0, split.seed)
    train, val = (len(usable.intersection(splits[name])) for name in ("train", "val"))
    if not train:
        raise ValueError(f"{survey.config.data.root}: no usable case is left to train on; mend some")
    return train, val


def _foreground_share(survey: Survey) -> float:
    """Voxels of a class but background, of all that are not ignored."""
    voxels = survey.label_voxels
    total = sum(count for value, count in voxels.items() if value != survey.config.loss.ignore_label)
    return 1 - voxels[0] / max(1, total)


def _choose_split(survey: Survey, cases: tuple[CaseFacts, ...]) -> Split:
    """The source's own split where it has one, else as many folds as there are cases or groups, up to 5."""
    given = {facts.case.split for facts in cases}
    unlabelled = {facts.case.split for facts in survey.cases if facts.case.label is None}
    if {"train", "val"} <= given and not unlabelled & {"train", "val"}:
        return Split(kind="given")
    drawn = [facts.case for facts in cases if facts.case.split != "test"]
    units = {(case.group is not None, case.group or case.id) for case in drawn}
    if len(units) < 2:
        raise ValueError(f"{len(units)} group of labelled cases to train and validate on, planning needs 2 at least")
    return Split(kind="kfold", folds=min(5, len(units)))


def words(name: str) -> set[str]:
    """The words of a class name, in lower case: `Lung_L`, `left kidney`, `leftKidney`."""
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name)}


def _is_ct(survey: Survey) -> bool:
    """Whether the source says that every channel is CT."""
    names = survey.channel_names or ()
    return bool(names) and all(words(name) & CT_WORDS for name in names)
