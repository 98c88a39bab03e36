"""Where cases come from: a registry of the layouts that data sets have on disk."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from configs import Config
from configs.schema.data import DataConfig
from data.layouts.cases import Case, LabelledListing, Listing, describe_folder, with_safe_ids
from data.layouts.class_folders import find_classes, find_labelled_table, find_unlabelled
from data.layouts.folders import find_csv, find_folders
from data.layouts.folders import find_images as _find_images
from data.layouts.medmnist import find_medmnist
from data.layouts.msd_nnunet import find_msd, find_nnunet

__all__ = ["LABELLED_SOURCES", "LAYOUTS", "SOURCES", "Case", "Listing", "find_cases", "find_images", "find_labelled"]

SOURCES: dict[str, Callable[[DataConfig], Listing]] = {
    "msd": find_msd,
    "nnunet": find_nnunet,
    "folders": find_folders,
    "csv": find_csv,
}
# name: a callable of (config, class_names), class_names being known ones, in their order, or None
LABELLED_SOURCES: dict[str, Callable[[DataConfig, tuple[str, ...] | None], LabelledListing]] = {
    "classes": find_classes,
    "medmnist": find_medmnist,
    "csv": find_labelled_table,
}
LAYOUTS = {
    "msd": "dataset.json that lists image and label files",
    "nnunet": "imagesTr/case_0000.nii.gz and labelsTr/case.nii.gz",
    "folders": "images/ and labels/ with files of the same names",
    "csv": "a table with the columns image and label",
}


def find_cases(config: DataConfig) -> Listing:
    """The cases under `config.root`, as `config.source` finds them; no volume is opened.

    `class_names` are the config's, else the source's, else None. Raises ValueError where the root does not
    hold that layout, naming what it holds.
    """
    root = config.root
    if not root.exists():
        raise ValueError(f"data.root={root}: no such folder; correct it, or fetch the data set")
    if config.source != "csv" and not root.is_dir():
        raise ValueError(f"data.root={root}: data.source={config.source} needs a folder, this is a file")
    if config.source == "msd" and not (root / "dataset.json").exists():
        layouts = "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items())
        raise ValueError(
            f"data.root={root}: no dataset.json, which data.source=msd needs; found {describe_folder(root)}. "
            f"Choose data.source by the layout ({layouts})"
        )
    listing = SOURCES[config.source](config)
    cases = with_safe_ids(listing.cases, root)
    if not cases:
        raise ValueError(f"data.root={root}: no cases; data.source={config.source} expects {LAYOUTS[config.source]}")
    return Listing(cases, config.class_names or listing.class_names, listing.channel_names)


def find_labelled(config: DataConfig, trained: Sequence[str] | None = None) -> LabelledListing:
    """The cases with classes under `config.root`; no volume or clip is opened.

    Class names are the config's, else those that a run was `trained` with, else the source's. Raises ValueError.
    """
    if not config.root.exists():
        raise ValueError(f"data.root={config.root}: no such file or folder; correct it, or fetch the data set")
    if config.source == "classes" and not config.root.is_dir():
        raise ValueError(f"data.root={config.root}: data.source=classes needs a folder, this is a file")
    names = config.class_names or (None if trained is None else tuple(trained))
    listing = LABELLED_SOURCES[config.source](config, names)
    found = list(listing.class_names or ())
    if len(found) < 2 and not listing.multi_label:
        raise ValueError(f"data.root={config.root}: the classes are {found}; two are needed")
    return replace(listing, cases=with_safe_ids(listing.cases, config.root))


def find_images(folder: Path | str) -> tuple[Case, ...]:
    """Unlabelled cases of a folder of volumes, to predict; case_0000, case_0001 ... are one case's channels."""
    return with_safe_ids(_find_images(Path(folder)), Path(folder))


def list_cases(config: Config, trained: Sequence[str] | None = None) -> Listing:
    """The cases of the config's task: with label volumes (`find_cases`), or with classes (`find_labelled`)."""
    return find_labelled(config.data, trained) if config.task == "classification" else find_cases(config.data)


def list_images(folder: Path | str, config: Config, class_names: Sequence[str], multi_label: bool) -> Listing:
    """The volumes or clips of a folder as cases of the config's task, without labels. Raises ValueError.

    `class_names` and `multi_label` are those that a run was trained with.
    """
    if config.task == "segmentation":
        return Listing(find_images(folder), tuple(class_names))
    cases = with_safe_ids(find_unlabelled(Path(folder), clips=config.data.clip is not None), Path(folder))
    return Listing(cases, tuple(class_names), labels="classes" if multi_label else "class")
