"""The cases that a planned config trains and validates on, and what the rules for all labels need of them."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.schema.data import Split
from data.splits import fold_names, make_splits
from planning.survey.survey import Survey
from planning.survey.volumes import VolumeFacts

CROP_GAIN = 0.75  # crop where less than this share of a volume is left without its empty border, as nnU-Net does
SIDE_WORDS = {"left", "right", "l", "r", "lt", "rt", "lh", "rh"}
DIRECTIONS = {*SIDE_WORDS, "up", "down", "upward", "downward", "forward", "backward", "clockwise"}


@dataclass(frozen=True)
class Cohort:
    """The usable, labelled cases of a survey, split as in the first fold."""

    survey: Survey
    cases: tuple[Any, ...]  # their facts
    split: Split
    train: tuple[Any, ...]
    num_val: int

    @property
    def num_train(self) -> int:
        """Training cases."""
        return len(self.train)

    def num_channels(self) -> int:
        """Return the channels of the volumes that the network sees."""
        channels = self.survey.config.data.channels
        return self.survey.usable[0].num_channels if channels is None else len(channels)

    def classes_with(self, words: Collection[str]) -> list[str]:
        """Return the classes whose names hold one of the words."""
        return [name for name in self.survey.class_names if words_of(name) & set(words)]


def gather_cohort(survey: Survey, least: int) -> Cohort:
    """Split the cases as the source does, else into as many folds as there are cases or groups, up to 5.

    The source's own is its split or, without one, its folds. Raises ValueError for fewer than `least` cases or two
    groups, and where none is left to train on.
    """
    root = survey.config.data.root
    cases = tuple(facts for facts in survey.usable if facts.case.label is not None)
    if len(cases) < least:
        raise ValueError(
            f"{root}: {len(cases)} usable labelled cases, and planning needs at least {least}; "
            f"python -m planning.inspect {root} lists what was found"
        )
    given = {facts.case.split for facts in cases}
    unlabelled = {facts.case.split for facts in survey.cases if facts.case.label is None}
    if {"train", "val"} <= given and not unlabelled & {"train", "val"}:
        split = Split(kind="given")
    else:
        drawn = [facts.case for facts in cases if facts.case.split != "test"]
        units = len({(case.group is not None, case.group or case.id) for case in drawn})
        if units < 2:
            cut = any(case.interval_s is not None for case in drawn)
            hint = "; the segments of one file are one group, unless data.columns.group=false" if cut else ""
            raise ValueError(
                f"{root}: {units} group of labelled cases to train and validate on, and planning needs at least 2{hint}"
            )
        own = len(fold_names(drawn))
        split = Split(kind="kfold", folds=own if own > 1 else min(5, units))
    splits = make_splits([facts.case for facts in survey.cases], split, 0, split.seed)
    train, val = ([facts for facts in cases if facts.case.id in set(splits[name])] for name in ("train", "val"))
    if not train:
        raise ValueError(f"{root}: no usable case is left to train on; fix or add cases")
    return Cohort(survey, cases, split, tuple(train), len(val))


def words_of(name: str) -> set[str]:
    """Return the words of a class name, in lower case: `Lung_L`, `left kidney`, `leftKidney`."""
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name)}


def box_share(cases: Sequence[VolumeFacts]) -> tuple[float, str]:
    """Return the share of the median volume that is left without its empty border, and that in words."""
    share = float(np.median([math.prod(facts.box or facts.shape) / math.prod(facts.shape) for facts in cases]))
    return share, f"{100 * share:.0f} % of the median volume is left without its empty border"


def median_minimum(cases: Sequence[VolumeFacts]) -> float:
    """Return the least intensity of the median volume."""
    return float(np.median([min(channel.low for channel in facts.voxels or ()) for facts in cases]))
