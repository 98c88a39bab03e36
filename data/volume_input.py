"""Volumes as a network's input: with label volumes, with a class, or, with a class, as rows of an archive."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from configs import Config
from data.files.errors import FileProblem
from data.files.formats.npy import read_member
from data.files.grid import Grid, Shape, Source
from data.files.volumes import read_header
from data.input import Input
from data.layouts.cases import Case
from data.prepare.cache import Entry
from data.prepare.copies import voxel_digest
from data.prepare.crop import crop
from data.prepare.normalise import foreground_intensities, normalise
from data.prepare.prepared_cases import Store
from data.prepare.statistics import Statistics, agreed_intensities
from data.prepare.volumes import Preparation, Prepared, nonzero_box, prepare, sample_intensities, working_grid
from data.sampling.augment import Augment
from data.sampling.patches import draw_sample
from data.usable_cases import Progress, Roster

_log = logging.getLogger("mlx_volumes")


class Volumes(Input):
    """Volumes with a class: x (D, H, W, C) float32 of `data.patch_size_voxels`.

    Training takes a random patch of the volume, evaluation the one at its centre; smaller volumes are padded
    with 0 on all sides.
    """

    in_memory = True

    def __init__(self, config: Config, store: Store, num_classes: int = 0) -> None:
        self.num_channels = 0  # until `check`
        self.file_channels = 0
        self._config = config
        self._store = store
        self._preparation = Preparation.from_config(config, num_classes)
        self._augment = Augment(config.data.augment)

    def check(self, roster: Roster, statistics: Statistics | None) -> None:
        self.file_channels = self._count_channels(roster, None if statistics is None else statistics["file_channels"])
        chosen = self._config.data.channels
        if chosen is not None and max(chosen) >= self.file_channels:
            raise ValueError(f"data.channels={list(chosen)}: the images have {self.file_channels}, counted from 0")
        self.num_channels = self.file_channels if chosen is None else len(chosen)

    def parameters(self) -> dict[str, Any]:
        return self._preparation.to_json()

    def fit(self, roster: Roster, statistics: Statistics | None, progress: Progress | None = None) -> None:
        data = self._config.data
        largest = self._largest(roster.cases.values())
        if any(n > p for n, p in zip(largest, data.patch_size_voxels, strict=True)) and not data.crop_nonzero:
            _log.warning(
                "data.patch_size_voxels=%s is less than the largest volume, %s: evaluation sees its centre alone",
                list(data.patch_size_voxels),
                largest,
            )

    def bytes_each(self, cases: Iterable[Case]) -> int:
        voxels = max((sum(int(np.prod(shape)) for shape in self.shapes(case)) for case in cases), default=0)
        return voxels * 4 * (self.file_channels + 2)  # float32 before and after, temporaries of image and label

    def prepare(self, case: Case) -> tuple[int, tuple[str, ...]]:
        prepared = self._prepared(case)
        return prepared.num_bytes, (prepared.digest,)

    def sample(self, case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        prepared, data = self._prepared(case), self._config.data
        return draw_sample(
            prepared.volume,
            prepared.label,
            prepared.foreground,
            rng,
            patch_size=data.patch_size_voxels,
            foreground_rate=data.foreground_rate,
            sampling=data.sampling,
            augment=self._augment,
            spacing_mm=prepared.grid.spacing_mm,
        )

    def load(self, case: Case) -> Any:
        return self._centre(case)

    def pictures(self, case: Case) -> np.ndarray:
        """Return the centre as it looks, (1, D, H, W, 1) uint8: the first channel, its percentiles 0.5 to 99.5."""
        volume = self._centre(case)[..., :1]
        low, high = np.percentile(volume, (0.5, 99.5))
        return (np.clip((volume - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)

    def _centre(self, case: Case) -> np.ndarray:
        """Return the centre patch (1, D, H, W, C) float32."""
        volume, size = self._prepared(case).volume, self._config.data.patch_size_voxels
        d, h, w = ((n - p) // 2 if n >= p else -((p - n) // 2) for n, p in zip(volume.shape[:3], size, strict=True))
        return crop(volume, (d, h, w), size, np.float32)[None]

    def _count_channels(self, roster: Roster, expected: int | None) -> int:
        return roster.check_headers(expected)

    def _prepared(self, case: Case) -> Prepared:
        parameters = {"id": case.id, **self.parameters()}
        return Prepared.from_entry(self._store.entry(case.id, case.files, parameters, lambda: self._make(case)))

    def _make(self, case: Case) -> Entry:
        prepared = prepare(case, self._preparation)
        for note in prepared.notes:
            _log.warning("%s: %s", case.images[0], note)
        return prepared.to_entry()

    def shapes(self, case: Case) -> tuple[Shape, Shape]:
        """Return of the volume in the file, and once resampled."""
        grid = read_header(case.images[0]).grid
        return grid.shape, working_grid(grid, self._config.data.spacing_mm).shape

    def _largest(self, cases: Iterable[Case]) -> list[int]:
        """Return the size that holds each of the volumes, once resampled."""
        return np.max([self.shapes(case)[1] for case in cases], axis=0).tolist()


class LabelledVolumes(Volumes):
    """Volumes with label volumes: patches of both, drawn by `data.sampling`; evaluation sees the `Prepared` case."""

    def __init__(
        self, config: Config, store: Store, num_classes: int, channel_names: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(config, store, num_classes)
        self._channel_names = channel_names

    def fit(self, roster: Roster, statistics: Statistics | None, progress: Progress | None = None) -> None:
        """Take a run's intensities, or measure them where data.normalisation=ct asks for them."""
        self._require_room_for_whole_volumes(roster)
        intensities = None
        if statistics is not None:
            intensities = agreed_intensities(self._preparation, statistics)
        elif self._config.data.normalisation == "ct":
            size = self.bytes_each(roster.of("train"))
            found = roster.map(
                lambda case: sample_intensities(case, self._preparation), roster.splits["train"], size, progress
            )
            drawn = [found[case_id] for case_id in roster.splits["train"]]
            intensities = tuple(foreground_intensities(drawn, self._config.data.percentiles))
        self._preparation = replace(self._preparation, intensities=intensities)

    def statistics(self) -> dict[str, Any]:
        intensities = self._preparation.intensities
        return {
            "channel_names": None if self._channel_names is None else list(self._channel_names),
            "normalisation": self._preparation.normalisation,
            "intensities": None if intensities is None else [asdict(channel) for channel in intensities],
        }

    def load(self, case: Case) -> Prepared:
        return self._prepared(case)

    def _require_room_for_whole_volumes(self, roster: Roster) -> None:
        data = self._config.data
        if data.sampling != "whole" or data.crop_nonzero or "train" not in roster.splits:
            return  # cropped sizes show only in the voxels: `draw_sample` checks them again
        needed = self._largest(roster.of("train"))
        if any(n > p for n, p in zip(needed, data.patch_size_voxels, strict=True)):
            raise ValueError(
                f"data.sampling=whole needs data.patch_size_voxels of at least {needed}, the largest training "
                f"volume; got {list(data.patch_size_voxels)}; enlarge it, or use data.sampling=random"
            )


class ArchiveVolumes(Volumes):
    """Volumes with a class that are rows of MedMNIST's arrays: unpacked once, normalised each time."""

    in_memory = False

    def prepare(self, case: Case) -> tuple[int, tuple[str, ...]]:
        return 0, (voxel_digest(self._row(case)),)

    def _count_channels(self, roster: Roster, expected: int | None) -> int:
        if self._config.data.spacing_mm is not None:
            raise ValueError("data.spacing_mm: MedMNIST's volumes have no spacing; set it to null")
        shape = self._row(next(iter(roster.cases.values()))).shape
        return shape[3] if len(shape) == 4 else 1

    def _prepared(self, case: Case) -> Prepared:
        row, data = self._row(case), self._config.data
        volume = row.reshape(*row.shape[:3], -1).astype(np.float32)
        if data.channels is not None:
            volume = np.ascontiguousarray(volume[..., list(data.channels)])
        box = nonzero_box(volume) if data.crop_nonzero else ((0, 0, 0), volume.shape[:3])
        if data.crop_nonzero:
            volume = crop(volume, *box)
        normalise(volume, data.normalisation, data.percentiles)
        d, h, w = row.shape[:3]
        grid, source = Grid((d, h, w), np.eye(4)), Source(case.images[0], "numpy", (w, h, d), np.eye(4))
        return Prepared(case.id, volume, None, {}, grid.crop(*box), grid, box, source)

    def _row(self, case: Case) -> np.ndarray:
        """Return the case's volume (D, H, W[, C]), as a memory map where the array that it is a row of is cached."""
        assert case.member is not None
        path, (name, row) = case.images[0], case.member

        def make() -> Entry:
            volumes = read_member(path, name)
            if volumes.dtype.kind not in "uif":
                raise FileProblem(path, f"{name} holds {volumes.dtype}", "volumes are numbers")
            return Entry({"volumes": volumes}, {})

        return self._store.entry(f"{path}:{name}", [path], {"array": name}, make).arrays["volumes"][row]

    def shapes(self, case: Case) -> tuple[Shape, Shape]:
        d, h, w = self._row(case).shape[:3]
        return (d, h, w), (d, h, w)
