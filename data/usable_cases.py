"""Which cases can be used: checks over all of them; bad ones stop the run or are skipped."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from data.files.volumes import FileProblem, read_header
from data.layouts.cases import Case, some
from data.prepare.case_checks import Problem, check_case
from machine.resources import available_threads

_log = logging.getLogger("mlx_volumes")

Progress = Callable[[int, int], None]  # (cases done, cases in all)
Result = TypeVar("Result")

_MEMORY_BYTES = 3 << 30  # that cases worked on at a time may take


def count_threads(bytes_each: int) -> int:
    """Return how many threads may work on cases at a time, by cores and by the memory that each takes."""
    return max(1, min(available_threads(), _MEMORY_BYTES // max(bytes_each, 1)))


class Roster:
    """The usable cases by id, the splits made of them, and those skipped.

    `on_error` decides what `reject` does with a bad case: "stop" raises ValueError, with every fault of every
    case listed; "skip" leaves the case out of `cases` and `splits`, and notes it in `skipped` as (case id,
    file, reason). `where` names the data in messages.
    """

    def __init__(self, cases: Sequence[Case], on_error: Literal["stop", "skip"], where: str) -> None:
        self.cases: dict[str, Case] = {case.id: case for case in cases}
        self.splits: dict[str, list[str]] = {}
        self.skipped: list[tuple[str, str, str]] = []
        self._on_error = on_error
        self._where = where

    def of(self, split: str) -> list[Case]:
        """Return the cases of a split, in its order; "all" is every case that was not skipped."""
        if split == "all":
            return list(self.cases.values())
        if split not in self.splits:
            raise ValueError(f"no split {split!r}; there are {', '.join(self.splits) or 'none'} and all")
        return [self.cases[case_id] for case_id in self.splits[split]]

    def whole_batches(self, batch_size: int) -> int:
        """Return how many batches one pass over the training cases fills. Raises ValueError when there is none."""
        cases = len(self.splits["train"])
        if cases < batch_size:
            raise ValueError(f"train.batch_size={batch_size} is more than the {cases} training cases; lower it")
        return cases // batch_size

    def check_headers(self, num_channels: int | None = None) -> int:
        """Reject the cases that headers rule out; return the number of channels in the images.

        Every image must have `num_channels`, or, where that is None, as many as most have.
        """
        problems = {case_id: check_case(case) for case_id, case in self.cases.items()}
        channels = {
            case_id: sum(read_header(path).channels for path in case.images)
            for case_id, case in self.cases.items()
            if not problems[case_id]
        }
        if num_channels is None:
            num_channels = Counter(channels.values()).most_common(1)[0][0] if channels else 0
        for case_id, found in channels.items():
            if found != num_channels:
                problems[case_id] = check_case(self.cases[case_id], num_channels)
        self.reject([problem for faults in problems.values() for problem in faults])
        return num_channels

    def set_splits(self, splits: dict[str, list[str]]) -> None:
        """Take the splits, less the cases skipped. Raises ValueError for unknown ids."""
        skipped = {case_id for case_id, _, _ in self.skipped}
        for name, ids in splits.items():
            if unknown := [case_id for case_id in ids if case_id not in self.cases and case_id not in skipped]:
                raise ValueError(
                    f"split {name}: {self._where} does not hold {', '.join(unknown[:5])} ({len(unknown)} of "
                    f"{len(ids)} cases); point data.root at the data set that the split was made of"
                )
        self.splits = {name: [i for i in ids if i in self.cases] for name, ids in splits.items()}
        self._require_some(len(skipped))

    def take_train_labels(self) -> None:
        """Let the training cases have the labels to train on, where those to score against are others."""
        for case_id in self.splits.get("train", ()):
            self.cases[case_id] = self.cases[case_id].to_train_on()

    def map(
        self,
        work: Callable[[Case], Result],
        ids: Sequence[str],
        bytes_each: int,
        progress: Progress | None = None,
    ) -> dict[str, Result]:
        """Return `work` of each case, by id, computed in as many threads as cores and memory allow at `bytes_each`.

        Every case is tried; those that raised FileProblem are rejected at the end.
        """
        results: dict[str, Result] = {}
        problems = []
        pool = ThreadPoolExecutor(count_threads(bytes_each))
        try:
            futures = {case_id: pool.submit(work, self.cases[case_id]) for case_id in ids}
            for done, (case_id, future) in enumerate(futures.items(), 1):
                try:
                    results[case_id] = future.result()
                except FileProblem as problem:
                    problems.append(Problem.of(case_id, problem))
                if progress is not None:
                    progress(done, len(futures))
        finally:
            pool.shutdown(cancel_futures=True)
        self.reject(problems)
        return results

    def reject_copies(self, digests: Mapping[str, Sequence[str]], allowed: bool = False) -> None:
        """Reject training cases that share a digest with a case of another split: its score would be optimistic.

        `digests` are of what was decoded, by case id. Where `allowed`, they are kept, with a warning.
        """
        elsewhere = {}
        for split, ids in self.splits.items():
            if split != "train":
                elsewhere.update({digest: (case_id, split) for case_id in ids for digest in digests.get(case_id, ())})
        problems = []
        for case_id in self.splits.get("train", ()):
            twins = [elsewhere[digest] for digest in digests.get(case_id, ()) if digest in elsewhere]
            if twins:
                (twin, split), path = twins[0], self.cases[case_id].images[0]
                reason = (
                    f"a copy of case {twin} ({self.cases[twin].images[0]}), which is in {split}: its score would "
                    "be optimistic; remove one of the two or put both in one group (a column `group` in a table of the "
                    "cases), or keep both with data.split.allow_copies=true"
                )
                problems.append(Problem(case_id, path, reason))
        if allowed and problems:
            text = "data.split.allow_copies=true: scores are optimistic, for %d training cases copy scored ones: %s"
            _log.warning(text, len(problems), some([problem.case_id for problem in problems]))
            return
        self.reject(problems)

    def reject(self, problems: Sequence[Problem]) -> None:
        """Stop or skip, as `on_error` says. Raises ValueError also when no case, or no training case, would be left."""
        if not problems:
            return
        bad = list(dict.fromkeys(problem.case_id for problem in problems))
        if self._on_error == "stop":
            lines = "\n".join(f"  {problem.path}: {problem.reason}" for problem in problems)
            raise ValueError(
                f"{self._where}: {len(bad)} of {len(self.cases)} cases cannot be used:\n{lines}\n"
                "fix or remove them, or set data.on_error=skip to go on without them"
            )
        for problem in problems:
            _log.warning("skipped case %s: %s: %s", problem.case_id, problem.path, problem.reason)
            self.skipped.append((problem.case_id, str(problem.path), problem.reason))
        for case_id in bad:
            del self.cases[case_id]
        self.splits = {name: [i for i in ids if i in self.cases] for name, ids in self.splits.items()}
        self._require_some(len(bad))

    def _require_some(self, num_bad: int) -> None:
        if not self.cases or self.splits.get("train") == []:
            kind = "training case" if self.cases else "case"
            raise ValueError(f"{self._where}: no {kind} is left after skipping {num_bad} bad ones; fix some")
