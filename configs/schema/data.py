"""The `data` section: where the cases are, how they are prepared, split and sampled."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.augment import AugmentConfig
from configs.schema.clip import Clip
from configs.schema.types import Count, NonNegative, Positive, Probability, Section, Triple


class Columns(Section):
    """Names of a CSV's columns. `image` may name several, one a channel; null takes the usual aliases."""

    image: str | tuple[str, ...] | None = None  # aliases: image, path, file
    label: str | tuple[str, ...] | None = None  # alias: label; several, of 0 and 1, are classes that may coincide
    id: str | None = None  # alias: id, case; else the image's file name
    split: str | None = None  # alias: split
    group: str | None = None  # aliases: group, subject, patient


class Split(Section):
    """How cases are shared out; the result is written into the run."""

    kind: Literal["kfold", "ratio", "lists", "given"] = "kfold"  # given: the source's own column or file
    folds: Annotated[int, Field(ge=2)] = 5
    ratio: tuple[Positive, NonNegative, NonNegative] = (0.8, 0.2, 0.0)  # train, val, test
    seed: int = 0  # apart from the run's seed: seeds of one ablation share their folds
    by_group: bool = True  # keep a group's cases together, where the source has groups
    allow_copies: bool = False  # train on a case whose voxels or frames are those of one in another split
    train: tuple[str, ...] = ()  # case ids, with kind: lists
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class Cache(Section):
    """Preprocessed cases, kept as memory-mapped files."""

    folder: Path | None = None  # null: .cache in the run.dir
    limit_gb: Positive = 50.0  # least recently used entries go beyond it
    memory_gb: NonNegative = 2.0  # cases are held in memory when all of them fit into this


class DataConfig(Section):
    """Everything between files on disk and batches."""

    source: str  # a layout of data/layouts/registry.py
    root: Path
    images: str = "images"  # folders: image folder under root
    labels: str = "labels"  # folders: label folder under root
    columns: Columns = Columns()
    class_names: tuple[str, ...] | None = None  # index is the label value; null: the source's own names
    # Label values to read as others: {2: 1} merges class 2 into 1, {3: 0} drops class 3; the rest stay as they are.
    label_map: dict[int, int] | None = None  # class_names are those after it
    channels: tuple[int, ...] | None = None  # which channels to use; null: all
    split: Split = Split()
    fold: Annotated[int, Field(ge=0)] = 0

    spacing_mm: tuple[Positive, Positive, Positive] | None = None  # resample to this; null keeps the file's
    interpolation: Literal["linear", "cubic"] = "linear"
    crop_nonzero: bool = False
    normalisation: Literal["zscore", "zscore_nonzero", "percentile", "ct", "none"] = "zscore"
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (
        0.5,
        99.5,
    )

    sampling: Literal["random", "whole", "grid"] = "random"  # random patches, padded volumes, or a grid of patches
    patch_size_voxels: Triple = (48, 48, 48)
    clip: Clip | None = None  # for video, in place of sampling and patch_size_voxels
    balance: Literal["none", "classes"] = "none"  # classes: an epoch draws as many cases of each
    foreground_rate: Probability = 0.33  # share of random patches centred on a voxel of a random foreground class
    augment: AugmentConfig = AugmentConfig()

    cache: Cache = Cache()
    on_error: Literal["stop", "skip"] = "stop"
    workers: Count = 1  # threads that read and augment
    prefetch_batches: Count = 4

    @property
    def input_size(self) -> Triple:
        """What the network sees at a time: (D, H, W)."""
        return self.patch_size_voxels if self.clip is None else self.clip.input_size

    @model_validator(mode="after")
    def _fold_exists(self) -> "DataConfig":
        if self.split.kind == "kfold" and self.fold >= self.split.folds:
            raise ValueError(f"fold={self.fold} must be below split.folds={self.split.folds}")
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles must be [low, high]; got {list(self.percentiles)}")
        if self.label_map is not None and self.class_names is None:
            raise ValueError("label_map changes what label values mean: list data.class_names as they are after it")
        return self
