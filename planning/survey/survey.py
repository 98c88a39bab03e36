"""A data set measured, case by case: what its files hold, and what is wrong with them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from configs import Config
from configs.regions import held
from data.layouts.registry import find_cases, find_labelled, settle_regions
from data.layouts.table import require_files
from data.layouts.unread import count_files
from data.prepare.case_checks import Problem
from planning.survey.classes import Classes, find_ignored_files
from planning.survey.clips import CLIPS
from planning.survey.facts import Finding, Kind, Progress, Reading
from planning.survey.findings import find_all
from planning.survey.label_volumes import LabelVolumes, make_up_names
from planning.survey.volumes import ROWS, VOLUMES, agreed_modalities, read_volumes

_log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True, eq=False)
class Survey:
    """All that was found at a path: the facts of each case, which are of one `kind`, and its classes, the `target`.

    A case with `problems` cannot be used; `findings` are worth checking.
    """

    config: Config
    kind: Kind
    target: Any  # LabelVolumes or Classes, by config.task
    cases: tuple[Any, ...]  # VolumeFacts or ClipFacts
    channel_names: tuple[str, ...] | None
    findings: tuple[Finding, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label value or class number."""
        return self.target.class_names

    @property
    def files(self) -> str:
        """How many there are, of images and of labels."""
        return count_files([facts.case for facts in self.cases])

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
    take = {"segmentation": _take_label_volumes, "classification": _take_classes}[config.task]
    rate = None if config.data.clip is None else config.data.clip.image_frame_rate
    return take(config, Reading(thumbnails, threads, progress, rate))


def _take_label_volumes(config: Config, how: Reading) -> Survey:
    config = settle_regions(config)
    with _collected_warnings() as findings:
        listing = find_cases(config.data)
    require_files(listing.cases, config.data)
    names, ignore, regions = listing.class_names, config.loss.ignore_label, config.data.regions
    num_values = (None if names is None else len(names)) if regions is None else 1 + max(held(regions))
    cases = read_volumes(listing.cases, how, num_values, ignore, config.data.label_map)
    target = LabelVolumes(names or make_up_names(cases, ignore), names is not None, ignore, regions)
    findings += find_all(cases, VOLUMES, target)
    channels = listing.channel_names or agreed_modalities(cases)
    return Survey(config, VOLUMES, target, tuple(cases), channels, tuple(findings))


def _take_classes(config: Config, how: Reading) -> Survey:
    with _collected_warnings() as findings:
        listing = find_labelled(config.data)
    require_files(listing.cases, config.data)
    kind = CLIPS if config.data.clip is not None else ROWS if config.data.source == "medmnist" else VOLUMES
    cases = kind.read(listing.cases, how)
    target = Classes(listing.class_names or (), listing.multi_label)
    findings += [*find_ignored_files(config.data, cases), *find_all(cases, kind, target)]
    return Survey(config, kind, target, tuple(cases), None, tuple(findings))


@contextmanager
def _collected_warnings() -> Iterator[list[Finding]]:
    """Collect what finding the cases warns of, instead of printing it."""
    findings: list[Finding] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: findings.append(Finding(record.getMessage()))  # type: ignore[method-assign]
    propagates, _log.propagate = _log.propagate, False
    _log.addHandler(handler)
    try:
        yield findings
    finally:
        _log.removeHandler(handler)
        _log.propagate = propagates
