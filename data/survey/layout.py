"""Which layout a path holds, told from names and small text files alone: what `inspect` and `plan` start from."""

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from configs import Config, apply_overrides
from configs.load import check_config
from data.cases import SUFFIXES, describe_folder, list_volumes, some
from data.source_files import find_csv
from data.source_json import group_channels
from data.sources import LAYOUTS

Tree = dict[str, Any]  # the part of a config that says how files are read

SEGMENTATION = ("msd", "nnunet", "folders", "csv")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr", "volumes", "scans")
LABEL_FOLDERS = ("labels", "label", "labelstr", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "gt")
TABLES = (".csv", ".tsv")
CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
READING_KEYS = (
    "data.source", "data.images", "data.labels", "data.columns", "data.class_names", "data.channels",
    "loss.ignore_label",
)  # fmt: skip


def read_settings(path: Path, overrides: Sequence[str] = ()) -> Config:
    """A config whose `data` section reads the cases at `path`; everything else in it is a placeholder.

    The layout is recognised unless `data.source` is among the `overrides`, which may set READING_KEYS.
    Raises ValueError for a path that holds no layout that can be trained on, saying what it does hold.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == known or key.startswith(known + ".") for known in READING_KEYS):
            raise ValueError(f"{override}: only keys that say how files are read: {', '.join(READING_KEYS)}")
    chosen = any(override.startswith("data.source=") for override in overrides)
    tree = {"data": {"root": str(path)}} if chosen else recognise(path)
    tree = apply_overrides(tree, overrides)
    return check_config({"name": "unnamed", "train": {"steps": 1}, **tree}, where=str(path))


def recognise(path: Path) -> Tree:
    """The config keys that read the data set at `path`, by the first layout of TRAINABLE that fits.

    Raises ValueError where none does: with the layout's name if it is one of UNTRAINABLE.
    """
    for find in TRAINABLE:
        if (tree := find(path)) is not None:
            return tree
    expected = "; ".join(f"{name}: {LAYOUTS[name]}" for name in SEGMENTATION)
    for describe in UNTRAINABLE:
        if (what := describe(path)) is not None:
            raise ValueError(
                f"{path}: {what}. This layout is not trainable yet: only segmentation is, from volumes with "
                f"label volumes ({expected})"
            )
    found = describe_folder(path) if path.is_dir() else f"the file {path.name}"
    raise ValueError(f"{path}: no layout that is known here, found {found}; expected one of {expected}")


def _json_folder(path: Path) -> Tree | None:
    """A folder with dataset.json: nnU-Net's where it names channels or numbers them, else the Decathlon's."""
    root = path.parent if path.name == "dataset.json" else path
    if not (root / "dataset.json").is_file():
        return None
    try:
        facts = json.loads((root / "dataset.json").read_text(encoding="utf-8-sig"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        return _tree("msd", root)  # finding the cases says what is wrong with the file
    training = facts.get("training")
    numbered = _numbered(root / "imagesTr", facts.get("file_ending"))
    if "channel_names" in facts or (numbered and not _first_exists(root, training)):
        tree = _tree("nnunet", root)
        labels = facts.get("labels")
        ignore = labels.get("ignore") if isinstance(labels, dict) else None
        return {**tree, "loss": {"ignore_label": ignore}} if isinstance(ignore, int) else tree
    return _tree("msd", root) if training is not None else None


def _table(path: Path) -> Tree | None:
    """A table that names label files, or a folder with one."""
    tables = [path] if path.suffix.lower() in TABLES else sorted(path.glob("*.csv")) if path.is_dir() else []
    if len(tables) != 1:
        return None
    try:
        cases = find_csv(check_config(_placeholder(_tree("csv", tables[0])), str(path)).data).cases
    except ValueError:
        return None if path.is_dir() else _tree("csv", path)  # unusual columns are the overrides' business
    classes = any(case.label is not None and not case.label.suffix for case in cases)
    if classes or any(_is_clip(image) for case in cases for image in case.images):
        return None
    return _tree("csv", tables[0])


def _numbered_folder(path: Path) -> Tree | None:
    """imagesTr/case_0000.nii.gz without a dataset.json."""
    return _tree("nnunet", path) if _numbered(path / "imagesTr") or _numbered(path / "imagesTs") else None


def _two_folders(path: Path) -> Tree | None:
    """A folder of images and one of labels, under any of their usual names."""
    folders = {sub.name.lower(): sub for sub in sorted(path.iterdir()) if sub.is_dir()} if path.is_dir() else {}
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    if images is None or not list_volumes(images):
        return None
    labels = next((folders[name] for name in LABEL_FOLDERS if name in folders), None)
    tree = _tree("folders", path)
    tree["data"]["images"] = images.name
    if labels is not None:
        tree["data"]["labels"] = labels.name
    return tree


def _loose_volumes(path: Path) -> Tree | None:
    """Volumes right in the folder, without labels: nothing to train on, but to look at."""
    if not path.is_dir() or not (volumes := list_volumes(path)) or any(_is_medmnist(volume) for volume in volumes):
        return None
    tree = _tree("folders", path)
    tree["data"]["images"] = "."
    return tree


def _class_folders(path: Path) -> str | None:
    """Class folders of clips or volumes."""
    folders = sorted(sub for sub in path.iterdir() if sub.is_dir()) if path.is_dir() else []
    if len(clips := [sub.name for sub in folders if any(_is_clip(file) for file in sub.iterdir())]) > 1:
        return f"class folders of clips ({some(clips)}), for classification"
    if len(volumes := [sub.name for sub in folders if any(_is_volume(file) for file in sub.iterdir())]) > 1:
        return (
            f"folders of volumes ({some(volumes)}): class folders, for classification, or, if each of them is a "
            f"case, files to be listed in a CSV with the columns image and label"
        )
    return None


def _medmnist(path: Path) -> str | None:
    """A MedMNIST archive, or a folder with one."""
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    found = next((file for file in files if _is_medmnist(file)), None)
    return f"{found.name} is a MedMNIST archive of volumes and class numbers, for classification" if found else None


def _clips(path: Path) -> str | None:
    """A clip, or a folder of clips."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    found = [file.name for file in files if _is_clip(file)]
    return f"video clips ({some(found)})" if found else None


def _class_table(path: Path) -> str | None:
    """A table of clips, or of files and their classes."""
    is_table = path.suffix.lower() in TABLES and path.is_file() and _table(path) is None
    return "a table of files and their classes, for classification" if is_table else None


# In the order of trial: what says most about itself comes first.
TRAINABLE: tuple[Callable[[Path], Tree | None], ...] = (
    _json_folder, _table, _numbered_folder, _two_folders, _loose_volumes,
)  # fmt: skip
UNTRAINABLE: tuple[Callable[[Path], str | None], ...] = (_class_folders, _medmnist, _clips, _class_table)


def _tree(source: str, root: Path) -> Tree:
    return {"data": {"source": source, "root": str(root)}}


def _placeholder(tree: Tree) -> Tree:
    return {"name": "unnamed", "train": {"steps": 1}, **tree}


def _numbered(folder: Path, ending: Any = None) -> bool:
    try:
        return bool(group_channels(folder, ending if isinstance(ending, str) else None))
    except ValueError:
        return True  # numbered, though with gaps


def _first_exists(root: Path, training: Any) -> bool:
    entries = training if isinstance(training, list) else []
    first = entries[0].get("image") if entries and isinstance(entries[0], dict) else None
    return isinstance(first, str) and (root / first).exists()


def _is_clip(path: Path) -> bool:
    return path.name.lower().endswith(CLIPS)


def _is_volume(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def _is_medmnist(path: Path) -> bool:
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _has_all(archive.namelist(), "train_images.npy", "train_labels.npy")


def _has_all(names: Iterable[str], *wanted: str) -> bool:
    return set(wanted) <= set(names)
