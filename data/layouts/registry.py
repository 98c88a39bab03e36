"""The registry of the layouts that data sets have on disk, and the cases that they hold."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs import Config
from configs.schema.data import DataConfig
from configs.schema.load import check_config, merge
from data.layouts.cases import Listing, describe_folder, require_unpacked, some, with_safe_ids
from data.layouts.class_folders import find_classes, find_labelled_table
from data.layouts.dicom import find_dicom, name_series
from data.layouts.folders import find_csv, find_folders, find_images, find_unlabelled_rows
from data.layouts.medmnist import find_medmnist
from data.layouts.msd_nnunet import declared_regions, find_msd, find_nnunet
from data.layouts.names import guess_patterns
from data.layouts.train_labels import add_train_labels
from data.layouts.unread import count_files, warn_of_unread

_log = logging.getLogger("mlx_volumes")


class Layout(NamedTuple):
    """A layout of files: how messages describe it, and what finds its cases; no file of a case is opened."""

    looks: str
    volumes: Callable[[DataConfig], Listing] | None = None  # cases with label volumes
    # Cases with classes, of (config, class_names): known ones, in their order, or None.
    classes: Callable[[DataConfig, tuple[str, ...] | None], Listing] | None = None
    needs: str | None = None  # a file below data.root
    may_be_file: bool = False  # data.root
    clips: bool = True  # may be of video
    tells_labels: bool = False  # its files say whether classes may coincide
    # What its files under a root say of data.regions and data.region_values; {} where they declare no regions.
    regions: Callable[[Path], dict[str, Any]] | None = None


SOURCES = {  # by `data.source`; the first is the default
    "msd": Layout(
        "dataset.json that lists image and label files", find_msd, needs="dataset.json", regions=declared_regions
    ),
    "nnunet": Layout("imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz", find_nnunet, regions=declared_regions),
    "folders": Layout("images/ and labels/, or files by patterns (*_img.nii.gz, *_seg.nii.gz)", find_folders),
    "csv": Layout("a table with the columns image and label", find_csv, find_labelled_table, may_be_file=True),
    "dicom": Layout("a folder of DICOM slices for each patient, with a label such as seg.nii.gz in it", find_dicom),
    "classes": Layout("a folder of volumes or clips for each class", classes=find_classes),
    "medmnist": Layout(
        "an .npz with train_images and train_labels",
        classes=find_medmnist,
        may_be_file=True,
        clips=False,
        tells_labels=True,
    ),
}


def volume_layouts() -> dict[str, str]:
    """Return how the layouts of cases with label volumes look, by name."""
    return {name: layout.looks for name, layout in SOURCES.items() if layout.volumes is not None}


def list_cases(config: Config, trained: Sequence[str] | None = None) -> Listing:
    """Return the cases of the config's task: with label volumes (`find_cases`), or with classes (`find_labelled`)."""
    return _LISTS[config.task].cases(config.data, trained)


def settle_regions(config: Config) -> Config:
    """Return the config with the regions that the source declares, where it names neither regions nor classes.

    nnU-Net's dataset.json does, by a list of label values for a label. Raises ValueError where they are no regions.
    """
    data = config.data
    declared = SOURCES[data.source].regions
    if declared is None or not (data.root / "dataset.json").is_file() or data.regions or data.class_names:
        return config
    found = declared(data.root)
    if not found:
        return config
    return check_config(merge(config.model_dump(mode="json", by_alias=True), {"data": found}), config.name)


def list_images(folder: Path | str, config: Config, class_names: Sequence[str], multi_label: bool) -> Listing:
    """Return the volumes or clips of a folder, or of a table, as cases of the config's task, without labels.

    `class_names` and `multi_label` are those that a run was trained with. Raises ValueError.
    """
    listing = _LISTS[config.task].images(Path(folder), config.data, multi_label)
    cases = name_series(with_safe_ids(listing.cases, Path(folder)), config.data.dicom_series)
    return replace(listing, cases=cases, class_names=tuple(class_names))


def find_cases(config: DataConfig, trained: Sequence[str] | None = None) -> Listing:
    """Return the cases with label volumes under `config.root`; no volume is opened.

    `class_names` are the config's regions or classes, else the source's, else None; `agreed_class_names` compares them
    with those that a run was `trained` with. Raises ValueError where the root does not hold the layout `config.source`,
    naming what it holds.
    """
    layout = _layout_of(config)
    assert layout.volumes is not None, "the config checks that the task fits"
    listing = layout.volumes(config)
    cases = name_series(with_safe_ids(add_train_labels(listing.cases, config), config.root), config.dicom_series)
    if not cases:
        raise ValueError(f"data.root={config.root}: no cases; data.source={config.source} expects {layout.looks}")
    _log.info("%s: %s", config.root, count_files(cases))
    if not layout.may_be_file:
        warn_of_unread(config.root, cases)
    if config.regions is not None:
        return replace(listing, cases=cases, class_names=tuple(config.regions), labels="regions")
    return replace(listing, cases=cases, class_names=config.class_names or _names_after_mapping(config, listing))


def _names_after_mapping(config: DataConfig, listing: Listing) -> tuple[str, ...] | None:
    """Return the source's class names, if any. Raises ValueError where `data.label_map` makes them other classes'."""
    names, changed = listing.class_names, [value for value in config.label_map or {} if value >= 0]
    if names is not None and any(value < len(names) for value in changed):
        raise ValueError(
            f"data.label_map changes what the source's classes ({some(names)}) mean: list data.class_names as they are "
            "after mapping"
        )
    return names


def find_labelled(config: DataConfig, trained: Sequence[str] | None = None) -> Listing:
    """Return the cases with classes under `config.root`; no volume or clip is opened.

    Class names are the config's, else those that a run was `trained` with, else the source's. Raises ValueError.
    """
    layout = _layout_of(config)
    assert layout.classes is not None, "the config checks that the task fits"
    if config.train_labels is not None and config.source != "csv":
        raise ValueError(f"data.train_labels={config.train_labels!r}: of classes, only data.source=csv has such labels")
    listing = layout.classes(config, config.class_names or (None if trained is None else tuple(trained)))
    found = list(listing.class_names or ())
    if len(found) < 2 and not listing.multi_label:
        raise ValueError(f"data.root={config.root}: the classes are {found}; two are needed")
    return replace(listing, cases=name_series(with_safe_ids(listing.cases, config.root), config.dicom_series))


def _layout_of(config: DataConfig) -> Layout:
    """Return the layout `config.source`. Raises ValueError where the root is not there, or cannot hold that layout."""
    root, layout = config.root, SOURCES[config.source]
    if not root.exists():
        raise ValueError(f"data.root={root}: no such file or folder; correct it, or fetch the data set")
    require_unpacked(root)
    if not layout.may_be_file and not root.is_dir():
        raise ValueError(f"data.root={root}: data.source={config.source} needs a folder, this is a file")
    if layout.needs is not None and not (root / layout.needs).exists():
        layouts = "; ".join(f"{name}: {looks}" for name, looks in volume_layouts().items())
        hint = f"By the files' names, set {guess.overrides}" if (guess := guess_patterns(root)) else ""
        hint = hint or f"Choose data.source by the layout ({layouts})"
        raise ValueError(
            f"data.root={root}: no {layout.needs}, which data.source={config.source} needs; found "
            f"{describe_folder(root)}. {hint}"
        )
    return layout


class _Lists(NamedTuple):
    """What lists the cases of a task: of (config, trained), and unlabelled ones of (folder, config, multi_label)."""

    cases: Callable[[DataConfig, Sequence[str] | None], Listing]
    images: Callable[[Path, DataConfig, bool], Listing]


def _list_volumes(folder: Path, config: DataConfig, multi_label: bool) -> Listing:
    cases = find_unlabelled_rows(folder, config) or find_images(folder, images=config.images)
    return Listing(cases, labels="volume" if config.regions is None else "regions")


def _list_classified(folder: Path, config: DataConfig, multi_label: bool) -> Listing:
    clips = config.clip is not None
    cases = find_unlabelled_rows(folder, config) or find_images(folder, clips=clips, grouped=False)
    return Listing(cases, labels="classes" if multi_label else "class")


_LISTS = {"segmentation": _Lists(find_cases, _list_volumes), "classification": _Lists(find_labelled, _list_classified)}
