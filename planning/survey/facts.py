"""What a survey knows of a case, and how it reads and compares cases of one kind: volumes or clips."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from data.layouts.cases import Case, some
from data.metadata import Metadata
from data.prepare.case_checks import Problem
from data.usable_cases import Progress, count_threads

Read = TypeVar("Read")


@dataclass(frozen=True)
class Finding:
    """A line on something worth checking: in the cases that it names or, without names, in the whole data set.

    `brief` stands beside each of the cases; of the whole data set it is the score that a network has to beat.
    """

    text: str
    case_ids: tuple[str, ...] = ()
    brief: str = ""

    def __str__(self) -> str:
        return f"{some(self.case_ids)}: {self.text}" if self.case_ids else self.text


@dataclass(frozen=True, eq=False)
class Facts(ABC):
    """What a case's files hold; volumes and clips add their own.

    `digest` is a hash of its contents, empty where they cannot be read; `thumbnail` is a JPEG.
    """

    case: Case
    problems: tuple[Problem, ...] = ()
    digest: str = ""
    thumbnail: bytes | None = None

    @property
    def usable(self) -> bool:
        """Whether preparing the case would succeed."""
        return bool(self.digest) and not self.problems

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers of the classes that the case is of; none where its label is a volume, or unknown."""
        return self.case.classes

    @abstractmethod
    def describe(self) -> str:
        """Return a line on the case: size, type and range."""

    @abstractmethod
    def oddities(self) -> list[str]:
        """Return what is odd about the contents: that they hold no information."""

    @abstractmethod
    def metadata(self) -> Metadata:
        """Return how the files were made; empty where that is unknown."""


@dataclass(frozen=True)
class Reading:
    """How files are read: with thumbnails or not, in up to `threads` threads (None: four), with `progress` called.

    `image_rate` is the frames a second of clips stored as images, where that is known.
    """

    thumbnails: bool = False
    threads: int | None = None
    progress: Progress | None = None
    image_rate: float | None = None

    def each(self, read: Callable[[Any], Read], cases: Sequence[Any], bytes_each: int) -> list[Read]:
        """Read the cases, as many at a time as cores and memory allow; the results are in the cases' order."""
        with ThreadPoolExecutor(min(self.threads or 4, count_threads(bytes_each))) as pool:
            return self.count(pool.map(read, cases), len(cases))

    def count(self, found: Iterable[Read], total: int) -> list[Read]:
        """Return the `total` results as a list, with `progress` called after each."""
        facts = []
        for done, one in enumerate(found, 1):
            facts.append(one)
            if self.progress is not None:
                self.progress(done, total)
        return facts


@dataclass(frozen=True)
class ClassTable:
    """Rows of (label value or None, class, its numbers) below `headings`, which are as wide as a text's columns."""

    what: str  # "label" or "class"
    headings: tuple[str, ...]
    rows: Sequence[tuple[int | None, str, tuple[str, ...]]]


@dataclass(frozen=True)
class Kind:
    """Volumes or clips: the words for them, and the functions that take facts of all cases."""

    name: str  # "volumes" or "clips"
    contents: str
    picture: str
    view: str  # what thumbnails show
    read: Callable[[Sequence[Any], Reading], Sequence[Any]]
    table: Callable[[Sequence[Any], Sequence[str] | None], list[tuple[str, str]]]  # (facts, channel names) -> rows
    find_differences: Callable[[Sequence[Any]], Iterator[Finding]]
    advice: str = ""  # where metadata predict the class


def ids_of(cases: Iterable[Facts]) -> tuple[str, ...]:
    return tuple(facts.case.id for facts in cases)
