"""A config's data: its cases checked, split and prepared, and training batches of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from configs import Config
from data.files.grid import Spacing
from data.files.volumes import read_header, read_label
from data.layouts.cases import Case, Listing
from data.layouts.registry import find_cases, find_images
from data.loader import Sample, Stream, make_stream
from data.prepare.normalise import foreground_intensities
from data.prepare.prepared_cases import Store, open_cache
from data.prepare.statistics import Statistics, agreed_class_names, agreed_intensities, fingerprint
from data.prepare.to_source_grid import restore_labels, restore_probabilities, restore_slabs, restore_values
from data.prepare.volumes import (
    Preparation,
    Prepared,
    map_labels,
    prepare,
    sample_intensities,
    with_intensities,
    working_grid,
)
from data.sampling.augment import build_augment
from data.sampling.order import epoch_order
from data.sampling.patches import draw_sample
from data.splits import make_splits
from data.usable_cases import Progress, Roster

log = logging.getLogger("mlx_volumes")


def open_data(
    config: Config,
    *,
    statistics: Statistics | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
) -> "VolumeData":
    """The data that the config names, its files' headers checked, split, with the training statistics.

    `statistics` and `splits` are those of a run, used instead of measuring and drawing them; `splits={}`
    makes none, for data of which only `cases("all")` matters. `rank` of `world` is this process among those
    that train together. `progress(done, total)` is called while statistics are measured.

    Raises ValueError for bad cases under data.on_error=stop, listing all of them, and for what does not fit
    together.
    """
    listing = find_cases(config.data)
    data = VolumeData(config, listing, f"data.root={config.data.root}", statistics, rank, world)
    if splits is None:
        splits = make_splits(listing.cases, config.data.split, config.data.fold, config.data.split.seed)
    data.roster.set_splits({name: list(ids) for name, ids in splits.items()})
    data.fit(statistics, progress)
    return data


def open_images(folder: Path | str, config: Config, statistics: Statistics) -> "VolumeData":
    """Unlabelled volumes of a folder, as split "images", prepared as the run's training data was.

    Nothing of them is kept in the cache. Raises ValueError as `open_data` does.
    """
    cases = find_images(folder)
    data = VolumeData(config, Listing(cases), str(folder), statistics, cached=False)
    data.roster.set_splits({"images": list(data.roster.cases)})
    data.fit(statistics)
    return data


class VolumeData:
    """Cases of a config, by split, and what comes of them. Made by `open_data` and `open_images`.

    class_names   by label value; 0 is the background
    num_channels  of the volumes that the network sees
    statistics    what prediction needs to know of the training split, JSON-able: for `open_data` later
    fingerprint   hash of the listed cases' ids and file sizes and of how they are prepared
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
    ) -> None:
        if config.train.batch_size % world:
            raise ValueError(
                f"train.batch_size={config.train.batch_size} must be divisible by the number of processes, {world}"
            )
        self.config = config
        self.class_names = agreed_class_names(listing, statistics)
        self._preparation = Preparation.from_config(config, len(self.class_names))
        self.fingerprint = fingerprint(listing.cases, self.class_names, self._preparation.to_json())
        self.roster = Roster(listing.cases, config.data.on_error, where)
        self.file_channels = self.roster.check_headers(None if statistics is None else statistics["file_channels"])
        chosen = config.data.channels
        if chosen is not None and max(chosen) >= self.file_channels:
            raise ValueError(f"data.channels={list(chosen)}: the images have {self.file_channels}, counted from 0")
        self.num_channels = self.file_channels if chosen is None else len(chosen)
        self.channel_names = listing.channel_names
        self.statistics: dict[str, Any] = {}
        self._rank, self._world = rank, world
        self._augment = build_augment(config.data.augment)
        self._store = Store(open_cache(config) if cached else None)

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
        """Classes, background included."""
        return len(self.class_names)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches of `train.batch_size`, over all processes, in one pass over the training cases.

        Raises ValueError when there is none.
        """
        return self.roster.whole_batches(self.config.train.batch_size)

    def cases(self, split: str) -> list[Case]:
        """The cases of a split, in its order; "all" is every case that was not skipped."""
        return self.roster.of(split)

    def fit(self, statistics: Statistics | None, progress: Progress | None = None) -> None:
        """Settles how cases are prepared: by the run's statistics, or by ones measured on the training split."""
        self._require_room_for_whole_volumes()
        intensities = None
        if statistics is not None:
            intensities = agreed_intensities(self._preparation, statistics)
        elif self.config.data.normalisation == "ct":
            ids = self.splits["train"]
            samples = self.roster.map(
                lambda case: sample_intensities(case, self._preparation), ids, self._bytes_each(ids), progress
            )
            drawn = [samples[case_id] for case_id in self.splits["train"]]
            intensities = tuple(foreground_intensities(drawn, self.config.data.percentiles))
        self._preparation = with_intensities(self._preparation, intensities)
        self.statistics = {
            "class_names": list(self.class_names),
            "channel_names": None if self.channel_names is None else list(self.channel_names),
            "file_channels": self.file_channels,
            "num_channels": self.num_channels,
            "normalisation": self.config.data.normalisation,
            "intensities": None if intensities is None else [asdict(channel) for channel in intensities],
        }

    def prepare_all(self, splits: Sequence[str] = ("train", "val"), progress: Progress | None = None) -> None:
        """Prepares the cases of these splits into the cache, so that bad ones show before they are needed.

        A case that its voxels rule out obeys data.on_error, as in `open_data`, and so does a training case that is a
        copy of one in another of these splits (unless data.split.allow_copies). Training cases stay in memory
        when all of them fit into data.cache.memory_gb. Processes share the work through the cache.
        """
        ids = [case.id for split in splits for case in self.cases(split)]
        start = self._rank * len(ids) // self._world
        order = ids[start:] + ids[:start]
        found = self.roster.map(lambda case: _size_and_digest(self.load(case)), order, self._bytes_each(ids), progress)
        sizes = {case_id: size for case_id, (size, _) in found.items()}
        self.roster.reject_copies(
            {case_id: (digest,) for case_id, (_, digest) in found.items()}, self.config.data.split.allow_copies
        )
        training = self.cases("train") if "train" in splits else []
        if sum(sizes[case.id] for case in training) <= self.config.data.cache.memory_gb * 1e9:
            self._store.hold(case.id for case in training)

    def load(self, case: Case | str) -> Prepared:
        """The case as the network sees it, from memory or the cache, else prepared now. Raises FileProblem."""
        case = self._case(case)
        files = [*case.images, *([case.label] if case.label else [])]
        parameters = {"id": case.id, **self._preparation.to_json()}
        entry = self._store.entry(case.id, files, parameters, lambda: self._prepare(case).to_entry())
        return Prepared.from_entry(entry)

    def train_stream(self, epoch: int, first_batch: int = 0) -> Stream:
        """One epoch's batches from `first_batch` on, this process' share of each; close it after use.

        A batch is x (B, D, H, W, C) float32, y (B, D, H, W) uint8 or int32, index (B,) int64, which counts in
        `cases("train")`. Every training case comes once, in an order that depends on the seed and the epoch,
        up to whole batches. Samples depend on (seed, epoch, index) alone, so neither the number of threads
        nor resuming changes them.
        """
        batch_size, cases = self.config.train.batch_size, self.cases("train")
        order = epoch_order(len(cases), self.config.seed, epoch)
        plan = order[first_batch * batch_size : self.batches_per_epoch * batch_size]
        return make_stream(
            plan[self._rank :: self._world],
            lambda index: self._sample(cases[index], index, epoch),
            batch_size // self._world,
            self.config.data.workers,
            self.config.data.prefetch_batches,
            lambda index: f"case {cases[index].id} ({cases[index].images[0]})",
        )

    def restore(self, case: Case | str | Prepared, probabilities: np.ndarray) -> np.ndarray:
        """Labels (D, H, W) on the source file's grid; see `restore_labels`."""
        return restore_labels(case if isinstance(case, Prepared) else self.load(case), probabilities)

    def restore_probabilities(self, case: Case | str | Prepared, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (D, H, W, K) on the source file's grid; see `data.restore`."""
        return restore_probabilities(case if isinstance(case, Prepared) else self.load(case), probabilities)

    def restore_slabs(self, prepared: Prepared, probabilities: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """`restore_probabilities` in slabs of planes, in order: (first plane, (d, H, W, K))."""
        return restore_slabs(prepared, probabilities, [1.0] + [0.0] * (probabilities.shape[-1] - 1))

    def restore_maps(self, prepared: Prepared, maps: np.ndarray) -> np.ndarray:
        """Maps (d, h, w, M) of the prepared grid on the source file's, (D, H, W, M), 0 where cropped away."""
        return restore_values(prepared, maps, [0.0] * maps.shape[-1])

    def read_label(self, case: Case | str) -> tuple[np.ndarray, Spacing]:
        """The label file (D, H, W) in RAS+, its values as data.label_map has them, and its spacing in mm.

        Raises ValueError without one.
        """
        case = self._case(case)
        if case.label is None:
            raise ValueError(f"case {case.id} has no label file; predict it without metrics")
        label, grid, _ = read_label(case.label)
        return map_labels(label, self._preparation.label_map), grid.spacing_mm

    def _case(self, case: Case | str) -> Case:
        return self.roster.cases[case] if isinstance(case, str) else case

    def _sample(self, case: Case, index: int, epoch: int) -> Sample:
        prepared, data = self.load(case), self.config.data
        assert prepared.label is not None
        x, y = draw_sample(
            prepared.volume,
            prepared.label,
            prepared.foreground,
            np.random.default_rng([self.config.seed, epoch, index, 0]),
            patch_size=data.patch_size_voxels,
            foreground_rate=data.foreground_rate,
            sampling=data.sampling,
            augment=self._augment,
            spacing_mm=prepared.grid.spacing_mm,
        )
        return {"x": x, "y": y, "index": np.array(index, np.int64)}

    def _prepare(self, case: Case) -> Prepared:
        prepared = prepare(case, self._preparation)
        for note in prepared.notes:
            log.warning("%s: %s", case.images[0], note)
        return prepared

    def _require_room_for_whole_volumes(self) -> None:
        data = self.config.data
        if data.sampling != "whole" or data.crop_nonzero or "train" not in self.splits:
            return  # cropped sizes show only in the voxels: `draw_sample` checks them again
        grids = [working_grid(read_header(case.images[0]).grid, data.spacing_mm) for case in self.cases("train")]
        needed = np.max([grid.shape for grid in grids], axis=0).tolist()
        if any(n > p for n, p in zip(needed, data.patch_size_voxels, strict=True)):
            raise ValueError(
                f"data.sampling=whole needs data.patch_size_voxels of at least {needed}, the largest training "
                f"volume; got {list(data.patch_size_voxels)}; enlarge it, or use data.sampling=random"
            )

    def _bytes_each(self, ids: Sequence[str]) -> int:
        """Memory that preparing the largest of these cases takes, by estimate."""
        voxels = 0
        for case_id in ids:
            grid = read_header(self.roster.cases[case_id].images[0]).grid
            target = working_grid(grid, self._preparation.spacing_mm)
            voxels = max(voxels, int(np.prod(grid.shape)) + int(np.prod(target.shape)))
        return voxels * 4 * (self.file_channels + 2)  # float32 before and after, temporaries of image and label


def _size_and_digest(prepared: Prepared) -> tuple[int, str]:
    label = 0 if prepared.label is None else prepared.label.nbytes
    foreground = sum(voxels.nbytes for voxels in prepared.foreground.values())
    return prepared.volume.nbytes + label + foreground, prepared.digest
