"""What planning a config starts from: the numbers of a survey, and the network, split and batch they lead to."""

import math
import re
from dataclasses import dataclass

import numpy as np

from configs.data_schema import Split
from data.case_facts import CaseFacts
from data.cases import some
from data.grid import Shape, Spacing
from data.plan_network import ANISOTROPIC, Network, design_network, target_spacing, training_gb
from data.splits import make_splits
from data.survey import Survey

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
        return [name for name in self.survey.class_names if _words(name) & SIDE_WORDS]

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
            f"python -m data.inspect {root} shows what is wrong with the others"
        )
    if len(survey.class_names) < 2:
        values = some(sorted(survey.label_voxels))
        raise ValueError(f"{root}: label values {values} are no classes: number them 0 (background), 1, 2 … first")
    split = _choose_split(survey, cases)
    splits = make_splits([facts.case for facts in cases], split, 0, split.seed)
    channels = config.data.channels
    num_channels = cases[0].num_channels if channels is None else len(channels)

    spacing = target_spacing(np.array([facts.spacing_mm for facts in cases]))
    shares = [math.prod(facts.box or facts.shape) / math.prod(facts.shape) for facts in cases]
    box_share = float(np.median(shares))
    crop = box_share < CROP_GAIN and not _is_ct(survey)
    sizes = np.array(
        [
            np.maximum(np.rint(np.array((crop and facts.box) or facts.shape) * facts.spacing_mm / spacing), 1)
            for facts in cases
        ]
    )  # (cases, 3), voxels at the target spacing
    d, h, w = (int(n) for n in np.ceil(np.median(sizes, axis=0)))
    train_voxels = float(sizes.prod(axis=1).mean()) * len(splits["train"])
    cases_gb = train_voxels * (4 * num_channels + 1) / 1e9
    held_gb = cases_gb if cases_gb <= memory_gb * CASES_SHARE else 0.0
    free_gb = memory_gb - held_gb

    num_classes = len(survey.class_names)
    network = design_network((d, h, w), spacing, num_channels, num_classes, free_gb)
    patch_voxels = math.prod(network.patch)
    batch_size = min(2, len(splits["train"]))
    while (
        batch_size < min(MAX_BATCH, len(splits["train"]))
        and (batch_size + 1) * patch_voxels <= MAX_BATCH_SHARE * train_voxels
        and training_gb(network, batch_size + 1, num_channels, num_classes) <= free_gb
    ):
        batch_size += 1
    voxels = survey.label_voxels
    background = voxels[0] + voxels[config.loss.ignore_label or 0] * (config.loss.ignore_label is not None)
    return Measured(
        survey, cases, split, len(splits["train"]), len(splits["val"]), num_channels, spacing, (d, h, w), crop,
        box_share, 1 - background / max(1, sum(voxels.values())), cases_gb, held_gb, memory_gb, network, batch_size,
    )  # fmt: skip


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


def _words(name: str) -> set[str]:
    """The words of a class name, in lower case: `Lung_L`, `left kidney`, `leftKidney`."""
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name)}


def _is_ct(survey: Survey) -> bool:
    """Whether the source says that every channel is CT."""
    names = survey.channel_names or ()
    return bool(names) and all(_words(name) & CT_WORDS for name in names)
