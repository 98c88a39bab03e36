"""The `data` section: where the cases are, how volumes and clips are prepared, split and sampled."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.regions import MAX_REGIONS, LabelValues, check_regions
from configs.schema.augment import AugmentConfig, PositiveRange
from configs.schema.types import (
    INPUT,
    RUNTIME,
    Gigabytes,
    Key,
    Label,
    NonNegative,
    Positive,
    Probability,
    Section,
    Seed,
    Side,
    Spacing,
    Threads,
    Triple,
)

Patterns = Annotated[tuple[str, ...], Field(min_length=1)]
Percentile = Annotated[float, Field(ge=0, le=100)]
Colour = tuple[float, ...]  # one for all channels, or one each of red, green and blue


Column = str | Literal[False] | None


class Columns(Section):
    """Names of a CSV's columns; null takes the usual aliases, false no column.

    `image` may name several, one a channel. It and the `label` of a volume may be patterns of columns: {id}.mp4.
    """

    image: str | tuple[str, ...] | None = None  # aliases: image, path, file
    label: str | tuple[str, ...] | Literal[False] | None = (
        None  # alias: label; several, of 0 and 1, are classes that may coincide
    )
    id: Column = None  # alias: id, case; else the image's file name
    split: Column = None  # alias: split
    fold: Column = None  # alias: fold; the folds of split.kind=kfold
    group: Column = None  # aliases: group, subject, patient
    # Seconds, or h:m:s, after a video's first frame; aliases: start, start_s, start_time, time_start; end, end_s, …
    start: Column = None
    end: Column = None
    # What the split column's values mean, beside train, val, test and their usual other names
    splits: dict[str | int, Literal["train", "val", "test"]] | None = None
    # Where relative paths begin; relative to the CSV's folder
    folder: Annotated[Path, Key("place", about="data", packed=False)] = Path()


class Split(Section):
    """How cases are shared out; the result is written into the run."""

    kind: Literal["kfold", "ratio", "lists", "given"] = "kfold"  # given: the source's own column or file
    folds: Annotated[int, Field(ge=2, le=10_000)] = 5
    ratio: tuple[Positive, NonNegative, NonNegative] = (0.8, 0.2, 0.0)  # train, val, test
    seed: Seed = 0  # apart from the run's seed: seeds of one ablation share their folds
    by_group: bool = True  # keep a group's cases together, where the source has groups
    allow_copies: bool = False  # train on a case whose voxels or frames are those of one in another split
    train: tuple[str, ...] = ()  # case ids, with kind: lists
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class Cache(Section):
    """Preprocessed cases, kept as memory-mapped files."""

    folder: Annotated[Path | None, Key("place")] = None  # null: .cache in the run.dir
    limit_gb: Gigabytes = 50.0  # least recently used entries go beyond it
    memory_gb: Annotated[float, Field(ge=0, le=1e6)] = 2.0  # cases are held in memory when all of them fit into this


class ClipAugment(Section):
    """Random changes of training clips, one draw for all frames of a clip; a range of [1, 1] is off.

    Zoom, aspect and speed are drawn evenly in their logarithms.
    """

    flip: Probability = 0.0  # left/right; off, as it turns moving left into moving right
    zoom: PositiveRange = (1.0, 1.0)  # of the cut-out, enlarged or reduced to crop_pixels; above 1 enlarges
    aspect: PositiveRange = (1.0, 1.0)  # width over height of the cut-out, against crop_pixels
    speed: PositiveRange = (1.0, 1.0)  # of the motion: 2 takes frames twice as far apart
    brightness: PositiveRange = (1.0, 1.0)  # factor
    contrast: PositiveRange = (1.0, 1.0)  # factor about the clip's mean
    saturation: PositiveRange = (1.0, 1.0)  # factor about each pixel's grey


class Clip(Section):
    """Which frames of a video become the network's input; D is time.

    Frames are decoded once, resized, and kept as uint8 in the cache; clips are cut from there. Training takes a random
    segment and a random crop of it; evaluation averages the predictions of `clips` evenly spaced segments times `crops`
    places.
    """

    frames: Annotated[Side, INPUT] = 16
    # Frames a second, by the frames' timestamps; null: as stored, by `stride`
    frame_rate: Annotated[Positive | None, INPUT] = None
    # Frames a second of clips stored as images (folders of frames, TIFFs of pages), which have no times of their own
    image_frame_rate: Annotated[Positive | None, Key(about="data")] = None
    stride: Annotated[Side, INPUT] = 1  # every n-th frame as stored; only where frame_rate is null
    short_side_pixels: Annotated[Side, INPUT] = 128  # frames are resized to this, their shape kept
    crop_pixels: Annotated[tuple[Side, Side], INPUT] = (112, 112)  # (H, W)
    # Clips shorter than asked: hold the last frame, or begin anew
    short: Annotated[Literal["hold", "loop", "error"], INPUT] = "hold"
    single_frame: Annotated[bool, INPUT] = False  # one frame, repeated: the baseline that sees no motion

    # differences: each frame less the one before it
    input: Annotated[Literal["frames", "differences"], INPUT] = "frames"
    colour: Annotated[Literal["rgb", "grey"], INPUT] = "rgb"
    mean: Annotated[Colour, INPUT] = (0.45,)  # taken off pixels of 0..1; differences have none taken off
    std: Annotated[Colour, INPUT] = (0.225,)  # then divided by

    clips: Annotated[int, Field(ge=1, le=1000)] = 1  # segments in evaluation; 1 is the middle one
    crops: Literal[1, 3] = 1  # in evaluation: the centre, or three along the longer side
    augment: ClipAugment = ClipAugment()

    @property
    def num_channels(self) -> int:
        return 3 if self.colour == "rgb" else 1

    @property
    def input_size(self) -> tuple[int, int, int]:
        """What the network sees: (D, H, W), D being time."""
        return self.frames, *self.crop_pixels

    @model_validator(mode="after")
    def _parts_agree(self) -> "Clip":
        if max(self.crop_pixels) > self.short_side_pixels:
            raise ValueError(
                f"short_side_pixels={self.short_side_pixels} must be at least {max(self.crop_pixels)}, the longer "
                f"side of crop_pixels={list(self.crop_pixels)}"
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.num_channels):
                raise ValueError(f"{key} has {len(values)} values; colour={self.colour} needs 1 or {self.num_channels}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0; got {list(self.std)}")
        if self.frame_rate is not None and self.stride != 1:
            raise ValueError(f"set frame_rate or stride, not both; got {self.frame_rate} and {self.stride}")
        if self.single_frame and self.input == "differences":
            raise ValueError("single_frame has no differences between frames; use input=frames")
        return self


class DataConfig(Section):
    """Everything between files on disk and batches."""

    source: Annotated[str, Key(about="data")]  # a layout of data/layouts/registry.py
    root: Annotated[Path, Key("place", about="data")]
    # folders: image folder under root, or a glob pattern relative to it, or several, one a channel
    images: Annotated[str | Patterns, Key(about="data", packed=False)] = "images"
    labels: Annotated[str, Key(about="data", packed=False)] = "labels"  # folders: label folder under root, or a pattern
    # Labels to train on where `labels` are those to score against: a folder of volumes, or a CSV's column or pattern
    train_labels: Annotated[str | None, Key(about="data", packed=False)] = None
    # Of several DICOM series in a folder the one meant: its description, with * and ?, or the end of its UID
    dicom_series: Annotated[str | None, Key(about="data", packed=False)] = None
    columns: Annotated[Columns, Key(about="data", packed=False)] = Columns()
    # Their index is the label value; null: the source's own names
    class_names: Annotated[tuple[str, ...] | None, Key(about="data")] = None
    # Label values to read as others: {2: 1} merges class 2 into 1, {3: 0} drops class 3; the rest stay as they are.
    label_map: Annotated[dict[int, Label] | None, Key(about="data")] = None  # class_names are those after it
    # Classes that overlap or nest, by name: {whole: [1, 2, 3], core: [2, 3]} are the label values that each holds. The
    # network predicts each by itself. null: a class for each label value; see docs/regions.md
    regions: Annotated[dict[str, LabelValues], Field(min_length=1, max_length=MAX_REGIONS)] | None = None
    # Written into the predicted label volume, a value a region, one region after the other. null: the label value that
    # lies in just the regions predicted; of no such value, as if each region had the value of its own
    region_values: Annotated[tuple[Label, ...] | None, Key("evaluation")] = None
    channels: tuple[int, ...] | None = None  # which channels to use; null: all
    split: Annotated[Split, Key(packed=False)] = Split()
    fold: Annotated[int, Field(ge=0), Key(in_sweeps="use sweep.folds", packed=False)] = 0

    # Resample to this; null keeps the file's
    spacing_mm: Annotated[tuple[Spacing, Spacing, Spacing] | None, INPUT] = None
    interpolation: Annotated[Literal["linear", "cubic"], INPUT] = "linear"
    crop_nonzero: Annotated[bool, INPUT] = False
    normalisation: Annotated[Literal["zscore", "zscore_nonzero", "percentile", "ct", "none"], INPUT] = "zscore"
    percentiles: Annotated[tuple[Percentile, Percentile], INPUT] = (0.5, 99.5)

    # Random patches, padded volumes, or a grid of patches
    sampling: Annotated[Literal["random", "whole", "grid"], INPUT] = "random"
    patch_size_voxels: Annotated[Triple, INPUT] = (48, 48, 48)
    clip: Clip | None = None  # for video, in place of sampling and patch_size_voxels
    balance: Literal["none", "classes"] = "none"  # classes: an epoch draws as many cases of each
    foreground_rate: Probability = 0.33  # share of random patches centred on a voxel of a random foreground class
    augment: AugmentConfig = AugmentConfig()

    cache: Annotated[Cache, RUNTIME] = Cache()
    on_error: Annotated[Literal["stop", "skip"], Key(packed=False)] = "stop"
    workers: Annotated[Threads, RUNTIME] = 1  # threads that read and augment
    prefetch_batches: Annotated[Threads, RUNTIME] = 4

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
        check_regions(self.regions, self.region_values)
        if self.regions is not None and self.class_names is not None:
            raise ValueError("regions name what is predicted, and class_names what each label value is: leave one out")
        return self
