"""A config's data: its cases, checked, split and prepared, and training batches of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config
from configs.regions import held
from data.clip_input import Clips
from data.files.grid import Shape, Spacing
from data.input import Input
from data.layouts.cases import Case, Listing
from data.layouts.registry import list_cases, list_images, settle_regions
from data.layouts.table import require_files
from data.loader import Sample, Stream, make_stream
from data.metadata import predict_by_metadata
from data.prepare.fingerprint import Files, fingerprint, sample_files
from data.prepare.prepared_cases import Store, open_cache
from data.prepare.statistics import Statistics, agreed_class_names
from data.prepare.to_source_grid import restore_labels, restore_maps, restore_slabs
from data.prepare.volumes import Prepared, read_label_files
from data.sampling.order import occurrences
from data.sampling.targets import Classes, Target
from data.splits import make_splits
from data.usable_cases import Progress, Roster
from data.volume_input import ArchiveVolumes, LabelledVolumes, Volumes


def open_data(
    config: Config,
    *,
    statistics: Statistics | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    files: Files | None = None,
    scoring: bool = False,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
) -> "Dataset":
    """Return the data that the config names, its files' headers checked, split, with the training statistics.

    `statistics` and `splits` are those of a run, used instead of measuring and drawing them; `splits={}`
    makes none, for data of which only `cases("all")` matters. `files` are what a run knows of them: those of the same
    size and time need not be read to tell whether they are the same. With `scoring`, training cases too have the labels
    to score against, not those of data.train_labels. `rank` of `world` is this process among those
    that train together. `progress(done, total)` is called while statistics are measured.

    Raises ValueError for bad cases under data.on_error=stop, listing all of them, and for settings or files that
    do not fit together.
    """
    config = settle_regions(config)
    listing = list_cases(config, None if statistics is None else statistics["class_names"])
    require_files(listing.cases, config.data)
    data = Dataset(config, listing, f"data.root={config.data.root}", statistics, rank, world, known=files)
    if splits is None:
        splits = make_splits(listing.cases, config.data.split, config.data.fold, config.data.split.seed)
    data.fit(splits, statistics, progress, scoring)
    return data


def open_images(folder: Path | str, config: Config, statistics: Statistics) -> "Dataset":
    """Return the volumes or clips of a folder, without labels, as split "images", prepared like the training data.

    Nothing of them is kept in the cache. Raises ValueError as `open_data` does.
    """
    listing = list_images(folder, config, statistics["class_names"], bool(statistics.get("multi_label")))
    data = Dataset(config, listing, str(folder), statistics, cached=False)
    data.fit({"images": list(data.roster.cases)}, statistics)
    return data


def _choose(
    config: Config, listing: Listing, class_names: Sequence[str], store: Store, cached: bool
) -> tuple[Input, Target]:
    """Return what the network sees of a case, and what it predicts; nothing after this asks for the task."""
    if listing.labels in ("volume", "regions"):
        regions = config.data.regions
        num_values = len(class_names) if regions is None else 1 + max(held(regions))
        return LabelledVolumes(config, store, num_values, listing.channel_names), Target()
    target = Classes(class_names, listing.multi_label, config.data.balance == "classes")
    if config.data.clip is not None:
        limit = config.data.cache.limit_gb * 1e9 if cached else math.inf  # then each is decoded for its views alone
        return Clips(config.data.clip, store, limit), target
    in_archive = any(case.member is not None for case in listing.cases)
    return (ArchiveVolumes if in_archive else Volumes)(config, store), target


class Dataset:
    """Cases of a config, by split, prepared for training and evaluation. Made by `open_data` and `open_images`.

    class_names   by label value, where 0 is the background; or of regions; or by class number
    multi_label   whether a case may be of several classes, or of none
    num_channels  of what the network sees
    statistics    what prediction needs to know of the training data, JSON-able: for `open_data` later
    fingerprint   hash of the listed cases' ids, labels and file sizes and of how they are prepared
    """

    def __init__(
        self,
        config: Config,
        listing: Listing,
        where: str,
        statistics: Statistics | None = None,
        rank: int = 0,
        world: int = 1,
        cached: bool = True,
        known: Files | None = None,
    ) -> None:
        if config.train.batch_size % world:
            raise ValueError(
                f"train.batch_size={config.train.batch_size} must be divisible by the number of processes, {world}"
            )
        self.config = config
        self._store = Store(open_cache(config) if cached else None)
        self.class_names = agreed_class_names(listing, statistics)
        self.multi_label = listing.multi_label
        self._input, self._target = _choose(config, listing, self.class_names, self._store, cached)
        self.fingerprint = fingerprint(listing.cases, self.class_names, self._input.parameters())
        self._listed, self._known = listing.cases, known
        self.roster = Roster(listing.cases, config.data.on_error, where)
        self._input.check(self.roster, statistics)
        self.num_channels = self._input.num_channels
        self.statistics: dict[str, Any] = {}
        self._rank, self._world = rank, world

    @cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """Return what the files of the listed cases hold, JSON-able: see `sample_files`."""
        return sample_files(self._listed, self._known)

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
        """Classes, of label volumes the background included; or regions."""
        return len(self.class_names)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches of `train.batch_size`, over all processes, in one pass over the training cases.

        Raises ValueError when there is none.
        """
        return self.roster.whole_batches(self.config.train.batch_size)

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Cases of each class in each split; unlabelled ones count nowhere. Empty lists for label volumes."""
        return {name: self._target.count(self.cases(name)) for name in self.splits}

    def cases(self, split: str) -> list[Case]:
        """Return the cases of a split, in its order; "all" is every case that was not skipped."""
        return self.roster.of(split)

    def fit(
        self,
        splits: Mapping[str, Sequence[str]],
        statistics: Statistics | None,
        progress: Progress | None = None,
        scoring: bool = False,
    ) -> None:
        """Take the splits, and settle how cases are prepared: by a run's statistics, or by ones measured now."""
        self.roster.set_splits({name: list(ids) for name, ids in splits.items()})
        if not scoring:
            self.roster.take_train_labels()
        self._target.check({name: self.cases(name) for name in self.splits})
        self._input.fit(self.roster, statistics, progress)
        self.statistics = {
            "class_names": list(self.class_names),
            **self._target.statistics(),
            "file_channels": self._input.file_channels,
            "num_channels": self.num_channels,
            **self._input.statistics(),
        }

    def prepare_all(self, splits: Sequence[str] = ("train", "val"), progress: Progress | None = None) -> None:
        """Prepare the cases of these splits into the cache, so that bad ones show before they are needed.

        A case that its voxels or frames rule out obeys data.on_error, as in `open_data`, and so does a training case
        that is a copy of one in another of these splits (unless data.split.allow_copies). Training volumes stay in
        memory when all of them fit into data.cache.memory_gb. Processes share the work through the cache.
        """
        cases = [case for split in splits for case in self.cases(split)]
        start = self._rank * len(cases) // self._world
        order = [case.id for case in cases[start:] + cases[:start]]
        found = self.roster.map(self._input.prepare, order, self._input.bytes_each(cases), progress)
        sizes = {case_id: size for case_id, (size, _) in found.items()}
        self.roster.reject_copies(
            {case_id: digests for case_id, (_, digests) in found.items()}, self.config.data.split.allow_copies
        )
        training = [case.id for case in self.cases("train")] if "train" in splits else []
        if self._input.in_memory and sum(sizes[i] for i in training) <= self.config.data.cache.memory_gb * 1e9:
            self._store.hold(training)

    def shapes(self, case: Case) -> tuple[Shape, Shape]:
        """Return the shapes (D, H, W) of a volume in its file, and once resampled, by its header."""
        return self._input.shapes(case)

    def bytes_to_prepare(self) -> int:
        """Return memory that preparing the largest of the training and validation cases takes, by estimate."""
        return self._input.bytes_each([case for split in ("train", "val") for case in self.cases(split)])

    def load(self, case: Case | str) -> Any:
        """Return the case as evaluation sees it, from memory or the cache, else prepared now. Raises FileProblem.

        A `data.prepare.volumes.Prepared` with label volumes, `data.sampling.targets.Views` with classes.
        """
        case = self._case(case)
        return self._target.join(case, self._input.load(case))

    def pictures(self, case: Case | str) -> np.ndarray:
        """Return the views of a case with a class as they look, (V, D, H, W, 1 or 3) uint8: for people."""
        return self._input.pictures(self._case(case))

    def predict_by_metadata(self, training: Sequence[str], cases: Sequence[Case]) -> dict[str, np.ndarray]:
        """Return class probabilities (K,) of the cases by how clips were made alone, learnt from those of these ids.

        Empty of volumes, of classes that may coincide, where a case was learnt from, and where nothing can be learnt.
        """
        if {case.id for case in cases} & set(training):
            return {}
        known = [self.roster.cases[case_id] for case_id in training if case_id in self.roster.cases]
        learnt = [(facts, case.label) for case in known if (facts := self._input.metadata(case))]
        labels = [label for _, label in learnt if isinstance(label, int)]
        asked = {case.id: self._input.metadata(case) for case in cases}
        return predict_by_metadata([facts for facts, _ in learnt], labels, asked, self.num_outputs)

    def windows(self, case: Case, window_s: float, hop_s: float) -> Iterator[tuple[float, float, np.ndarray]]:
        """Yield (from, up to, views (V, D, H, W, C)) of windows of a clip of any length, in the memory of one of them.

        Windows of `window_s` seconds begin `hop_s` seconds apart. Raises FileProblem.
        """
        return self._input.windows(case, window_s, hop_s)

    def train_stream(self, epoch: int, first_batch: int = 0) -> Stream:
        """Return one epoch's batches from `first_batch` on, this process's share of each; close it after use.

        A batch is x (B, D, H, W, C) float32, y, and index (B,) int64, which counts in `cases("train")`. y is
        (B, D, H, W) uint8 or int32 of label volumes, (B,) int32 of classes, or (B, K) float32 of 0 and 1 of classes
        that may coincide. Every training case comes once, in an order that depends on the seed and the epoch, or,
        with data.balance=classes, as often as balances the classes; up to whole batches. Samples depend on
        seed, epoch, case and how often it came before alone, so neither the number of threads nor resuming changes
        them.
        """
        batch_size, cases = self.config.train.batch_size, self.cases("train")
        order = self._target.order(cases, self.config.seed, epoch)
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

    # A prediction back on the grid of the file that its case came from; functions of (Prepared, probabilities or maps).
    restore = staticmethod(restore_labels)
    restore_maps = staticmethod(restore_maps)

    def restore_slabs(self, prepared: Prepared, probabilities: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the probabilities on the grid of the case's file, as `data.prepare.to_source_grid` does."""
        return restore_slabs(prepared, probabilities, self.config.data.regions is not None)

    def read_label(self, case: Case | str) -> tuple[np.ndarray, Spacing]:
        """Return the label file (D, H, W) in RAS+, its values as data.label_map has them, and its spacing in mm.

        Several files, one for each region, are one: see `read_label_files`. Raises ValueError without one.
        """
        case, mapped = self._case(case), self.config.data.label_map
        if not case.label_files:
            raise ValueError(f"case {case.id} has no label file; predict it without metrics")
        label_map = None if mapped is None else tuple(mapped.items())
        label, grid = read_label_files(case, label_map, self.config.loss.ignore_label)
        return label, grid.spacing_mm

    def _case(self, case: Case | str) -> Case:
        return self.roster.cases[case] if isinstance(case, str) else case

    def _sample(self, case: Case, index: int, epoch: int, repeat: int) -> Sample:
        x, labels = self._input.sample(case, np.random.default_rng([self.config.seed, epoch, index, repeat]))
        return {"x": x, "y": self._target.encode(case, labels), "index": np.array(index, np.int64)}
