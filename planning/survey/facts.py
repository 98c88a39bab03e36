"""What is known of a case, and what an input makes of it: volumes or clips are told apart by their `Input` alone."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from data.layouts.cases import Case, some
from data.prepare.case_checks import Problem
from machine.resources import available_threads

Metadata = dict[str, float | str]
Progress = Callable[[int, int], None]  # (cases done, cases in all)
Read = TypeVar("Read")

_MEMORY_BYTES = 3 << 30  # that cases read at a time may take


@dataclass(frozen=True)
class Remark:
    """One line on the cases that it names, or on the data set; `brief` is what stands beside each of them,
    or, of the data set, what a result is to be set against."""

    text: str
    case_ids: tuple[str, ...] = ()
    brief: str = ""

    def __str__(self) -> str:
        return f"{some(self.case_ids)}: {self.text}" if self.case_ids else self.text


@dataclass(frozen=True, eq=False)
class Facts:
    """What a case's files hold; each input adds its own.

    `digest` is of its contents, empty where they cannot be read; `thumbnail` a JPEG.
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


@dataclass(frozen=True)
class Reading:
    """How files are read: with pictures or not, in up to `threads` threads, or four, telling `progress`."""

    thumbnails: bool = False
    threads: int | None = None
    progress: Progress | None = None

    def each(self, read: Callable[[Any], Read], cases: Sequence[Any], bytes_each: int) -> list[Read]:
        """Read the cases, as many at a time as cores and memory allow; in their order."""
        most = max(1, min(self.threads or 4, available_threads(), _MEMORY_BYTES // bytes_each))
        with ThreadPoolExecutor(most) as pool:
            return self.count(pool.map(read, cases), len(cases))

    def count(self, found: Iterable[Read], total: int) -> list[Read]:
        """All that is found, telling of each."""
        facts = []
        for done, one in enumerate(found, 1):
            facts.append(one)
            if self.progress is not None:
                self.progress(done, total)
        return facts


@dataclass(frozen=True)
class ClassTable:
    """(label value or None, class, its numbers) rows below the numbers' headings, these as wide as in a text."""

    what: str  # "label" or "class"
    headings: tuple[str, ...]
    rows: Sequence[tuple[int | None, str, tuple[str, ...]]]


@dataclass(frozen=True)
class Input:
    """How the cases of one kind are read and described: `describe`, `odd` and `metadata` take one's facts."""

    what: str  # in the plural
    contents: str
    picture: str
    view: str  # what pictures show
    read: Callable[[Sequence[Any], Reading], Sequence[Any]]
    describe: Callable[[Any], str]
    rows: Callable[[Sequence[Any], Sequence[str] | None], list[tuple[str, str]]]  # (facts, channel names) -> a table
    odd: Callable[[Any], list[str]]  # contents without information
    metadata: Callable[[Any], Metadata]  # how the files were made; empty where that is unknown
    warnings: Callable[[Sequence[Any]], list[Remark]]  # on differences among the cases


def ids_of(cases: Iterable[Facts]) -> tuple[str, ...]:
    return tuple(facts.case.id for facts in cases)
