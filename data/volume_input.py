"""Volumes with a class as a network's input: prepared as for segmentation, without labels."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from configs import Config
from data.files.errors import FileProblem
from data.files.grid import Spacing
from data.files.volumes import read_header
from data.layouts.cases import LabelledCase
from data.layouts.medmnist import read_member
from data.prepare.cache import Entry
from data.prepare.copies import voxel_digest
from data.prepare.crop import crop
from data.prepare.normalise import normalise
from data.prepare.prepared_cases import Store
from data.prepare.volumes import Preparation, Prepared, nonzero_box, prepare, working_grid
from data.sampling.augment import build_augment
from data.sampling.patches import draw_offset
from data.usable_cases import Roster

log = logging.getLogger("mlx_volumes")


class Volumes:
    """The input of volumes: x (D, H, W, C) float32 of `data.patch_size_voxels`.

    Training takes a random patch of the volume, evaluation the one at its centre; smaller volumes are padded
    with 0 on all sides.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self.num_channels = 0  # until `check`
        self.file_channels = 0
        self._config = config
        self._store = store
        self._preparation = Preparation.from_config(config, num_classes=0)
        self._augment = build_augment(config.data.augment)

    def check(self, roster: Roster[LabelledCase], file_channels: int | None = None) -> None:
        """Rejects volumes that their headers rule out, and those of other than `file_channels`."""
        members = [case for case in roster.cases.values() if case.member is not None]
        if members:
            data = self._config.data
            if data.spacing_mm is not None:
                raise ValueError("data.spacing_mm: MedMNIST's volumes have no spacing; set it to null")
            shape = self._rows(members[0]).shape[1:]
            self.file_channels = shape[3] if len(shape) == 4 else 1
        else:
            self.file_channels = roster.check_headers(file_channels)
        chosen = self._config.data.channels
        if chosen is not None and max(chosen) >= self.file_channels:
            raise ValueError(f"data.channels={list(chosen)}: the volumes have {self.file_channels}, counted from 0")
        self.num_channels = self.file_channels if chosen is None else len(chosen)
        self._say_what_is_cropped(roster)

    def parameters(self) -> dict[str, Any]:
        """What decides how volumes are prepared."""
        return self._preparation.to_json()

    def bytes_each(self, cases: Iterable[LabelledCase]) -> int:
        """Memory that preparing the largest of these volumes takes, by estimate."""
        voxels = max((np.prod(self._shape(case)) for case in cases), default=0)
        return int(voxels) * 8 * (self.file_channels + 1)  # float32 before and after, a channel of temporaries

    def prepare(self, case: LabelledCase) -> tuple[int, tuple[str, ...]]:
        """Prepares the volume into the store; returns what it takes, in bytes, and its digest. Raises FileProblem."""
        if case.member is not None:
            return 0, (voxel_digest(self._rows(case)[case.member[1]]),)
        prepared = self._prepared(case)
        return prepared.volume.nbytes, (prepared.digest,)

    def sample(self, case: LabelledCase, rng: np.random.Generator) -> np.ndarray:
        """A random patch, augmented."""
        volume, spacing_mm = self._load(case)
        size = self._config.data.patch_size_voxels
        offset = draw_offset(volume.shape[:3], {}, rng, size, 0.0, self._config.data.sampling)
        patch = self._augment.draw_cut(offset, size, volume.shape, rng, spacing_mm).image(volume, 0.0)
        return self._augment.change_intensities(patch, rng)

    def views(self, case: LabelledCase) -> np.ndarray:
        """The centre (1, D, H, W, C)."""
        volume, _ = self._load(case)
        size = self._config.data.patch_size_voxels
        d, h, w = ((n - p) // 2 if n >= p else -((p - n) // 2) for n, p in zip(volume.shape[:3], size, strict=True))
        return crop(volume, (d, h, w), size, 0.0, np.float32)[None]

    def pictures(self, case: LabelledCase) -> np.ndarray:
        """The centre as it looks, (1, D, H, W, 1) uint8: the first channel, its percentiles 0.5 to 99.5."""
        volume = self.views(case)[..., :1]
        low, high = np.percentile(volume, (0.5, 99.5))
        return (np.clip((volume - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)

    def _load(self, case: LabelledCase) -> tuple[np.ndarray, Spacing]:
        if case.member is not None:
            return self._prepare_row(case), (1.0, 1.0, 1.0)
        prepared = self._prepared(case)
        return prepared.volume, prepared.grid.spacing_mm

    def _prepared(self, case: LabelledCase) -> Prepared:
        parameters = {"id": case.id, **self.parameters()}
        return Prepared.from_entry(self._store.entry(case.id, case.images, parameters, lambda: self._make(case)))

    def _make(self, case: LabelledCase) -> Entry:
        prepared = prepare(case.scan, self._preparation)
        for note in prepared.notes:
            log.warning("%s: %s", case.images[0], note)
        return prepared.to_entry()

    def _prepare_row(self, case: LabelledCase) -> np.ndarray:
        """A row of the archive, normalised: cheap enough to be done each time."""
        assert case.member is not None
        row = self._rows(case)[case.member[1]]
        volume = row.reshape(*row.shape[:3], -1).astype(np.float32)
        data = self._config.data
        if data.channels is not None:
            volume = np.ascontiguousarray(volume[..., list(data.channels)])
        if data.crop_nonzero:
            offset, shape = nonzero_box(volume)
            volume = crop(volume, offset, shape)
        normalise(volume, data.normalisation, data.percentiles)
        return volume

    def _rows(self, case: LabelledCase) -> np.ndarray:
        """The array (N, D, H, W[, C]) that the case is a row of: unpacked once, as a memory map where cached."""
        assert case.member is not None
        path, name = case.images[0], case.member[0]

        def make() -> Entry:
            volumes = read_member(path, name)
            if volumes.dtype.kind not in "uif":
                raise FileProblem(path, f"{name} holds {volumes.dtype}", "volumes are numbers")
            return Entry({"volumes": volumes}, {})

        return self._store.entry(f"{path}:{name}", [path], {"array": name}, make).arrays["volumes"]

    def _shape(self, case: LabelledCase) -> tuple[int, ...]:
        if case.member is not None:
            return self._rows(case).shape[1:4]
        return working_grid(read_header(case.images[0]).grid, self._config.data.spacing_mm).shape

    def _say_what_is_cropped(self, roster: Roster[LabelledCase]) -> None:
        data = self._config.data
        largest = np.max([self._shape(case) for case in roster.cases.values()], axis=0).tolist()
        cropped = any(n > p for n, p in zip(largest, data.patch_size_voxels, strict=True))
        if cropped and not data.crop_nonzero:
            log.warning(
                "data.patch_size_voxels=%s is less than the largest volume, %s: evaluation sees its centre alone",
                list(data.patch_size_voxels),
                largest,
            )
