"""A data set measured, case by case: what its files hold, and what is wrong with them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from configs import Config
from data.layouts.registry import find_cases, find_labelled
from data.prepare.case_checks import Problem
from planning.survey.classes import Classes, find_ignored_files
from planning.survey.clips import CLIPS
from planning.survey.facts import Input, Progress, Reading, Remark
from planning.survey.findings import find_warnings
from planning.survey.label_volumes import LabelVolumes, make_up_names
from planning.survey.volumes import ROWS, VOLUMES, read_volumes

log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True, eq=False)
class Survey:
    """All that was found at a path: facts of each case, as its `input` reads them, and classes, as its `target` is.

    `problems` keep their case from being used; `remarks` are worth a look.
    """

    config: Config
    input: Input
    target: Any  # LabelVolumes or Classes: who plans for one of them knows which
    cases: tuple[Any, ...]  # VolumeFacts or ClipFacts
    channel_names: tuple[str, ...] | None
    remarks: tuple[Remark, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label value or class number."""
        return self.target.class_names

    @property
    def problems(self) -> list[Problem]:
        return [problem for facts in self.cases for problem in facts.problems]

    @property
    def usable(self) -> list[Any]:
        return [facts for facts in self.cases if facts.usable]


def take_survey(
    config: Config, *, thumbnails: bool = False, threads: int | None = None, progress: Progress | None = None
) -> Survey:
    """Read every file of the config's cases once, and return what they hold and what is wrong with them.

    `threads` is at most 4 and the cores there are, where None. Raises ValueError where the layout itself
    is broken; a bad case is a problem in the result.
    """
    take = {"segmentation": _take_label_volumes, "classification": _take_classes}[config.task]  # asked here alone
    return take(config, Reading(thumbnails, threads, progress))


def _take_label_volumes(config: Config, how: Reading) -> Survey:
    with _collected_warnings() as remarks:
        listing = find_cases(config.data)
    names, ignore = listing.class_names, config.loss.ignore_label
    cases = read_volumes(listing.cases, how, names, ignore)
    target = LabelVolumes(names or make_up_names(cases, ignore), names is not None, ignore)
    remarks += find_warnings(cases, VOLUMES, target)
    return Survey(config, VOLUMES, target, tuple(cases), listing.channel_names, tuple(remarks))


def _take_classes(config: Config, how: Reading) -> Survey:
    with _collected_warnings() as remarks:
        listing = find_labelled(config.data)
    kind = CLIPS if config.data.clip is not None else ROWS if config.data.source == "medmnist" else VOLUMES
    cases = kind.read(listing.cases, how)
    target = Classes(listing.class_names or (), listing.multi_label)
    remarks += [*find_ignored_files(config.data, cases), *find_warnings(cases, kind, target)]
    return Survey(config, kind, target, tuple(cases), None, tuple(remarks))


@contextmanager
def _collected_warnings() -> Iterator[list[Remark]]:
    """What finding the cases warns of, instead of printing it."""
    remarks: list[Remark] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: remarks.append(Remark(record.getMessage()))  # type: ignore[method-assign]
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield remarks
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
