"""Volumes or clips with classes: a config's cases checked, split and prepared, and training batches of them."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config
from data.clip_input import Clips
from data.layouts.cases import LabelledCase, LabelledListing, some, with_safe_ids
from data.layouts.class_folders import find_unlabelled
from data.layouts.registry import find_labelled
from data.loader import Sample, Stream, make_stream
from data.prepare.prepared_cases import Store, open_cache
from data.prepare.statistics import Statistics, fingerprint
from data.sampling.order import balanced_order, epoch_order, occurrences
from data.splits import make_splits
from data.usable_cases import Progress, Roster
from data.volume_input import Volumes

log = logging.getLogger("mlx_volumes")


@dataclass(frozen=True, eq=False)
class Views:
    """A case as the network sees it in evaluation, where its predictions for all views are averaged."""

    id: str
    views: np.ndarray  # (V, D, H, W, C) float32; V is 1 for volumes, clips × crops for video
    label: int | np.ndarray | None  # class number; with classes that may coincide (K,) float32 of 0 and 1
    group: str | None


def open_labelled(
    config: Config,
    *,
    statistics: Statistics | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
) -> "ClassificationData":
    """The data that a config with task=classification names; arguments and errors as of `open_data`.

    `progress` is there for likeness: nothing is measured over the training split.
    """
    listing = find_labelled(config.data, None if statistics is None else statistics["class_names"])
    data = ClassificationData(config, listing, f"data.root={config.data.root}", statistics, rank, world)
    if splits is None:
        splits = make_splits(listing.cases, config.data.split, config.data.fold, config.data.split.seed)
    data.roster.set_splits({name: list(ids) for name, ids in splits.items()})
    data.check_classes()
    return data


def open_unlabelled(folder: Path | str, config: Config, statistics: Statistics) -> "ClassificationData":
    """The volumes or clips of a folder, without classes, as split "images", prepared as the run's were.

    Nothing of them is kept in the cache. Raises ValueError as `open_data` does.
    """
    folder = Path(folder)
    cases = with_safe_ids(find_unlabelled(folder, clips=config.data.clip is not None), folder)
    listing = LabelledListing(cases, tuple(statistics["class_names"]), statistics["multi_label"])
    data = ClassificationData(config, listing, str(folder), statistics, cached=False)
    data.roster.set_splits({"images": list(data.roster.cases)})
    return data


class ClassificationData:
    """Cases with classes, by split, and what comes of them: `VolumeData`'s counterpart.

    class_names   by class number
    multi_label   whether a case may be of several classes, or of none
    num_channels  of what the network sees
    statistics    what prediction needs to know of the training data, JSON-able: for `open_labelled` later
    fingerprint   hash of the listed cases' ids, labels and file sizes and of how they are prepared
    """

    def __init__(
        self,
        config: Config,
        listing: LabelledListing,
        where: str,
        statistics: Statistics | None = None,
        rank: int = 0,
        world: int = 1,
        cached: bool = True,
    ) -> None:
        if config.train.batch_size % world:
            raise ValueError(
                f"train.batch_size={config.train.batch_size} must be divisible by the number of processes, {world}"
            )
        if listing.multi_label and config.data.balance == "classes":
            raise ValueError("data.balance=classes needs one class a case; weigh the classes in the loss instead")
        self.config = config
        self.class_names = listing.class_names
        self.multi_label = listing.multi_label
        self.roster = Roster(listing.cases, config.data.on_error, where)
        self._store = Store(open_cache(config) if cached else None)
        self._input: Clips | Volumes
        if config.data.clip is not None:
            limit = config.data.cache.limit_gb * 1e9 if cached else math.inf  # then each is decoded for its views alone
            self._input = Clips(config.data.clip, self._store, limit)
            self._input.check(self.roster)
        else:
            self._input = Volumes(config, self._store)
            self._input.check(self.roster, None if statistics is None else statistics["file_channels"])
        self.num_channels = self._input.num_channels
        self.fingerprint = fingerprint(listing.cases, self.class_names, self._input.parameters())
        self.statistics: dict[str, Any] = {
            "class_names": list(self.class_names),
            "multi_label": self.multi_label,
            "file_channels": getattr(self._input, "file_channels", self.num_channels),
            "num_channels": self.num_channels,
        }
        self._rank, self._world = rank, world

    @property
    def splits(self) -> dict[str, list[str]]:
        """Case ids by split ("train", "val", "test"), without those skipped."""
        return self.roster.splits

    @property
    def skipped(self) -> list[tuple[str, str, str]]:
        """(case id, file, reason) of each fault of each case left out, under data.on_error=skip."""
        return self.roster.skipped

    @property
    def num_outputs(self) -> int:
        """Classes."""
        return len(self.class_names)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches of `train.batch_size`, over all processes, in one pass over the training cases.

        Raises ValueError when there is none.
        """
        return self.roster.whole_batches(self.config.train.batch_size)

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Cases of each class in each split; unlabelled ones count nowhere."""
        counts = {}
        for name in self.splits:
            rows = [self._one_hot(case.label) for case in self.cases(name) if case.label is not None]
            counts[name] = np.sum(rows, axis=0).astype(int).tolist() if rows else [0] * self.num_outputs
        return counts

    def cases(self, split: str) -> list[LabelledCase]:
        """The cases of a split, in its order; "all" is every case that was not skipped."""
        return self.roster.of(split)

    def check_classes(self) -> None:
        """Warns where a split lacks a class."""
        for name, counts in self.class_counts.items():
            missing = [label for label, count in zip(self.class_names, counts, strict=True) if not count]
            if missing and any(counts):
                log.warning("split %s has no case of %s", name, some(missing))

    def prepare_all(self, splits: Sequence[str] = ("train", "val"), progress: Progress | None = None) -> None:
        """Prepares the cases of these splits into the cache, so that bad ones show before they are needed.

        As of `VolumeData`: a bad case and a copy obey data.on_error, and training volumes stay in memory where they
        fit. Frames of clips stay memory maps.
        """
        cases = [case for split in splits for case in self.cases(split)]
        start = self._rank * len(cases) // self._world
        order = [case.id for case in cases[start:] + cases[:start]]
        found = self.roster.map(self._input.prepare, order, self._input.bytes_each(cases), progress)
        sizes = {case_id: size for case_id, (size, _) in found.items()}
        self.roster.reject_copies(
            {case_id: digests for case_id, (_, digests) in found.items()}, self.config.data.split.allow_copies
        )
        training = self.cases("train") if "train" in splits else []
        in_files = [case.id for case in training if case.member is None]
        if (
            isinstance(self._input, Volumes)
            and sum(sizes[i] for i in in_files) <= self.config.data.cache.memory_gb * 1e9
        ):
            self._store.hold(in_files)

    def load(self, case: LabelledCase | str) -> Views:
        """All views of the case. Raises FileProblem."""
        case = self._case(case)
        label = case.label
        if isinstance(label, tuple):
            return Views(case.id, self._input.views(case), self._one_hot(label), case.group)
        return Views(case.id, self._input.views(case), label, case.group)

    def pictures(self, case: LabelledCase | str) -> np.ndarray:
        """The views of the case as they look, (V, D, H, W, 1 or 3) uint8: for people, not for the network."""
        return self._input.pictures(self._case(case))

    def train_stream(self, epoch: int, first_batch: int = 0) -> Stream:
        """One epoch's batches from `first_batch` on, this process' share of each; close it after use.

        A batch is x (B, D, H, W, C) float32, y (B,) int32, or (B, K) float32 of 0 and 1 with classes that may
        coincide, and index (B,) int64, which counts in `cases("train")`. Every training case comes once, or,
        with data.balance=classes, as many times as evens out the classes; up to whole batches. Batches are a
        function of seed, epoch and position, as of `VolumeData`.
        """
        batch_size, cases, seed = self.config.train.batch_size, self.cases("train"), self.config.seed
        if self.config.data.balance == "classes":
            order = balanced_order([self._class_number(case) for case in cases], seed, epoch)
        else:
            order = epoch_order(len(cases), seed, epoch)
        repeats = occurrences(order)
        positions = range(first_batch * batch_size, self.batches_per_epoch * batch_size)
        return make_stream(
            positions[self._rank :: self._world],
            lambda position: self._sample(cases[order[position]], order[position], epoch, repeats[position]),
            batch_size // self._world,
            self.config.data.workers,
            self.config.data.prefetch_batches,
            lambda position: f"case {cases[order[position]].id} ({cases[order[position]].images[0]})",
        )

    def _sample(self, case: LabelledCase, index: int, epoch: int, repeat: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, epoch, index, repeat])
        y = self._one_hot(case.label) if self.multi_label else np.array(case.label, np.int32)
        return {"x": self._input.sample(case, rng), "y": y, "index": np.array(index, np.int64)}

    def _one_hot(self, label: int | tuple[int, ...] | None) -> np.ndarray:
        """The label as (K,) float32 of 0 and 1."""
        if isinstance(label, tuple):
            return np.array(label, np.float32)
        return np.eye(self.num_outputs, dtype=np.float32)[label]

    def _class_number(self, case: LabelledCase) -> int:
        assert isinstance(case.label, int)
        return case.label

    def _case(self, case: LabelledCase | str) -> LabelledCase:
        return self.roster.cases[case] if isinstance(case, str) else case
