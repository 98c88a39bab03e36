"""A data set measured, case by case: shapes, spacings, intensities, labels, and what is wrong with them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from configs import Config
from data.layouts.cases import Case, LabelledCase
from data.layouts.registry import find_cases
from data.prepare.case_checks import Problem, check_case
from machine.resources import available_threads
from planning.survey.case_summary import CaseFacts, read_headers, read_voxels, scan_of
from planning.survey.warnings import Remark, find_remarks

log = logging.getLogger("mlx_volumes")

Progress = Callable[[int, int], None]  # (cases done, cases in all)

_MEMORY_BYTES = 3 << 30  # that cases read at a time may take


@dataclass(frozen=True, eq=False)
class Survey:
    """All that was found at a path.

    `class_names` are by label value, background first: the source's, or, where `named` is False, made up
    from the label values found. `problems` keep their case from being used; `remarks` are worth a look.
    """

    config: Config
    cases: tuple[CaseFacts, ...]
    class_names: tuple[str, ...]
    named: bool
    channel_names: tuple[str, ...] | None
    remarks: tuple[Remark, ...]

    @property
    def problems(self) -> list[Problem]:
        return [problem for facts in self.cases for problem in facts.problems]

    @property
    def readable(self) -> list[CaseFacts]:
        """Cases whose headers could be read."""
        return [facts for facts in self.cases if facts.grid is not None]

    @property
    def usable(self) -> list[CaseFacts]:
        return [facts for facts in self.cases if facts.usable]

    @property
    def label_voxels(self) -> Counter[int]:
        """Voxels by label value, over all cases."""
        total: Counter[int] = Counter()
        for facts in self.cases:
            total.update(facts.labels or {})
        return total


def take_survey(
    config: Config, *, thumbnails: bool = False, threads: int | None = None, progress: Progress | None = None
) -> Survey:
    """Read every file of the config's cases once, and return what they hold and what is wrong with them.

    `threads` is at most 4 and the cores there are, where None. Raises ValueError where the layout itself
    is broken; a bad case is a problem in the result.
    """
    with collected_warnings() as warnings:
        listing = find_cases(config.data)
    ignore = config.loss.ignore_label
    cases = read_volumes(listing.cases, listing.class_names, ignore, thumbnails, threads, progress)
    names = listing.class_names or _made_up_names(cases, ignore)
    remarks = [Remark(text) for text in warnings]
    remarks += find_remarks(cases, names, listing.class_names is not None, ignore)
    return Survey(config, cases, names, listing.class_names is not None, listing.channel_names, tuple(remarks))


def read_volumes(
    cases: Sequence[Case] | Sequence[LabelledCase],
    class_names: Sequence[str] | None = None,
    ignore_label: int | None = None,
    thumbnails: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[CaseFacts, ...]:
    """What the cases' files hold; all must have as many channels as most have."""
    found = {case.id: read_headers(case) for case in cases}
    usual = Counter(facts.num_channels for facts in found.values() if not facts.problems).most_common(1)
    for case_id, facts in found.items():
        if not facts.problems and facts.num_channels != usual[0][0]:
            found[case_id] = replace(facts, problems=tuple(check_case(scan_of(facts.case), usual[0][0])))
    sound = [facts for facts in found.values() if not facts.problems]
    largest = max((int(np.prod(facts.shape)) * (facts.num_channels + 2) for facts in sound), default=1)
    with ThreadPoolExecutor(num_threads(threads, 4 * largest)) as pool:
        jobs = pool.map(lambda facts: read_voxels(facts, class_names, ignore_label, thumbnails), sound)
        for done, facts in enumerate(jobs, 1):
            found[facts.case.id] = facts
            if progress is not None:
                progress(done, len(sound))
    return tuple(found.values())


def _made_up_names(cases: Sequence[CaseFacts], ignore_label: int | None) -> tuple[str, ...]:
    """Names for the label values found, 0 up to the highest one: no more than those found, twice over."""
    values = {value for facts in cases for value in facts.labels or {}} - {ignore_label}
    highest = max(values, default=0)
    if min(values, default=0) < 0 or highest > 2 * len(values):
        return ()
    return ("background", *(f"class_{value}" for value in range(1, highest + 1)))


def num_threads(asked: int | None, bytes_each: int) -> int:
    """As many as asked for, or four, as long as cores and memory allow."""
    cores = available_threads()
    return max(1, min(asked or 4, cores, _MEMORY_BYTES // bytes_each))


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """What finding the cases warns of, instead of printing it."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield texts
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
