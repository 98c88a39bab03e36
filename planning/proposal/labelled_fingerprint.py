"""What planning a classification starts from: who trains, how often each class occurs, and how large cases are."""

from dataclasses import dataclass

import numpy as np

from configs.schema.data import Split
from data.splits import make_splits
from planning.proposal.fingerprint import SIDE_WORDS, words
from planning.survey.clip_summary import classes_of
from planning.survey.labelled import LabelledSurvey

EVEN = 1.5  # of the commonest class over the rarest: up to there, cases are drawn as they are
DIRECTIONS = {*SIDE_WORDS, "up", "down", "upward", "downward", "forward", "backward", "clockwise"}


@dataclass(frozen=True)
class Cohort:
    """The usable, labelled cases of a survey, shared out as the first fold will be."""

    survey: LabelledSurvey
    split: Split
    num_train: int
    num_val: int
    counts: tuple[int, ...]  # of each class in training

    @property
    def uneven(self) -> float:
        """Cases of the commonest class over those of the rarest."""
        return max(self.counts) / max(1, min(self.counts))

    @property
    def sided_classes(self) -> list[str]:
        """The classes whose names tell a side or a direction."""
        return [name for name in self.survey.class_names if words(name) & DIRECTIONS]

    @property
    def passes(self) -> int:
        """Over the training cases, 16 a step: about 1,000 steps, 12 to 40 passes."""
        return int(np.clip(round(16_000 / self.num_train), 12, 40))


def gather_cohort(survey: LabelledSurvey) -> Cohort:
    """Choose the split. Raises ValueError where there are too few cases, or one class alone."""
    root = survey.config.data.root
    usable = survey.usable_ids
    cases = [case for case in survey.labelled if case.id in usable and case.label is not None]
    if len(cases) < 4:
        raise ValueError(
            f"{root}: {len(cases)} labelled cases that can be used, planning needs 4 at least; "
            f"python -m planning.inspect {root} tells what was found"
        )
    given = {case.split for case in cases}
    unlabelled = {case.split for case in survey.labelled if case.label is None}
    if {"train", "val"} <= given and not unlabelled & {"train", "val"}:
        split = Split(kind="given")
    else:
        units = len({(case.group is not None, case.group or case.id) for case in cases if case.split != "test"})
        if units < 2:
            raise ValueError(f"{root}: {units} group of labelled cases to train and validate on, planning needs 2")
        split = Split(kind="kfold", folds=min(5, units))
    splits = make_splits(survey.labelled, split, 0, split.seed)
    train, val = (usable.intersection(splits[name]) for name in ("train", "val"))
    found = [number for case in cases if case.id in train for number in classes_of(case)]
    counts = tuple(found.count(number) for number in range(len(survey.class_names)))
    if sum(count > 0 for count in counts) < 2 and not survey.multi_label:
        raise ValueError(f"{root}: training would see one class alone, {counts} cases of each")
    return Cohort(survey, split, len(train), len(val), counts)
