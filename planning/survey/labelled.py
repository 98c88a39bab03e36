"""A data set of cases with classes measured: volumes, rows of an archive, or clips."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from configs import Config
from data.layouts.cases import LabelledCase
from data.layouts.medmnist import read_member
from data.layouts.registry import find_labelled
from data.prepare.case_checks import Problem
from planning.survey.case_summary import CaseFacts, read_row
from planning.survey.clip_summary import ClipFacts, classes_of, read_clip_facts
from planning.survey.labelled_warnings import find_labelled_remarks
from planning.survey.survey import Progress, collected_warnings, num_threads, read_volumes
from planning.survey.warnings import Remark

_CLIP_BYTES = 1 << 29  # that looking at one clip may take: longer ones are not held


@dataclass(frozen=True, eq=False)
class LabelledSurvey:
    """All that was found at a path, of cases with classes; `named` and the rest as of `Survey`."""

    config: Config
    volumes: tuple[CaseFacts, ...]  # either these
    clips: tuple[ClipFacts, ...]  # or these
    class_names: tuple[str, ...]
    multi_label: bool
    remarks: tuple[Remark, ...]

    @property
    def cases(self) -> tuple[CaseFacts, ...] | tuple[ClipFacts, ...]:
        return self.clips or self.volumes

    @property
    def labelled(self) -> list[LabelledCase]:
        """The cases themselves, those that cannot be used too."""
        return [facts.case for facts in self.cases if isinstance(facts.case, LabelledCase)]

    @property
    def named(self) -> bool:
        """Whether the classes have names, not numbers alone."""
        return not all(name.isdecimal() for name in self.class_names)

    @property
    def problems(self) -> list[Problem]:
        return [problem for facts in self.cases for problem in facts.problems]

    @property
    def usable_ids(self) -> set[str]:
        return {facts.case.id for facts in self.cases if facts.usable}

    def counts(self, split: str | None = None) -> list[int]:
        """Cases of each class, in one of the source's splits or over all."""
        chosen = [case for case in self.labelled if split is None or case.split == split]
        found = Counter(number for case in chosen for number in classes_of(case))
        return [found[number] for number in range(len(self.class_names))]


def take_labelled(
    config: Config, *, thumbnails: bool = False, threads: int | None = None, progress: Progress | None = None
) -> LabelledSurvey:
    """Read every file of a classification's cases once; arguments and errors as of `take_survey`."""
    with collected_warnings() as warnings:
        listing = find_labelled(config.data)
    names = listing.class_names or ()
    volumes: tuple[CaseFacts, ...] = ()
    clips: tuple[ClipFacts, ...] = ()
    total = len(listing.cases)
    if config.data.clip is not None:
        found = []
        with ThreadPoolExecutor(num_threads(threads, _CLIP_BYTES)) as pool:
            for facts in pool.map(lambda case: read_clip_facts(case, thumbnails), listing.cases):
                found.append(facts)
                if progress is not None:
                    progress(len(found), total)
        clips = tuple(found)
    elif config.data.source == "medmnist":
        rows = []
        for row in _read_rows(listing.cases, thumbnails):
            rows.append(row)
            if progress is not None:
                progress(len(rows), total)
        volumes = tuple(rows)
    else:
        volumes = read_volumes(listing.cases, thumbnails=thumbnails, threads=threads, progress=progress)
    remarks = [Remark(text) for text in warnings]
    remarks += find_labelled_remarks(config.data, volumes, clips, names)
    return LabelledSurvey(config, volumes, clips, names, listing.multi_label, tuple(remarks))


def _read_rows(cases: tuple[LabelledCase, ...], thumbnails: bool) -> Iterator[CaseFacts]:
    """An archive's rows, one array of it in memory at a time."""
    for (path, name), members in groupby(cases, key=lambda case: (case.images[0], (case.member or ("", 0))[0])):
        array = read_member(path, name)
        for case in members:
            assert case.member is not None
            yield read_row(case, array[case.member[1]], thumbnails)
