"""Which layout a path holds, recognised from names and small text files: `inspect` and `plan` start here."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs import Config, apply_overrides
from configs.schema.load import merge
from data.files.formats.dicom.folder import holds_slices, is_series
from data.files.images import is_image
from data.layouts.cases import describe_folder, list_volumes, require_unpacked, some
from data.layouts.msd_nnunet import group_channels, read_json
from data.layouts.names import IMAGE_FOLDERS, LABEL_FOLDERS, guess_patterns, label_word
from data.layouts.registry import SOURCES, volume_layouts
from engine.config import check_config
from planning.layout.class_layouts import (
    CLASS_LAYOUTS,
    Tree,
    class_tree,
    find_class_folders,
    find_medmnist,
    is_medmnist,
    table_tree,
    why_no_classes,
)

TABLES = (".csv", ".tsv")
READING_KEYS = (
    "task", "data.source", "data.images", "data.labels", "data.train_labels", "data.dicom_series", "data.columns",
    "data.class_names", "data.regions", "data.region_values", "data.label_map", "data.channels",
    "data.clip.image_frame_rate", "loss.ignore_label",
)  # fmt: skip


def read_settings(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return a config whose `task` and `data` section read the cases at `path`; everything else in it is a placeholder.

    The layout is recognised unless `data.source` is among the `overrides`, which may set READING_KEYS.
    Raises ValueError for a path that holds no layout that can be trained on, saying what it does hold.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == known or key.startswith(known + ".") for known in READING_KEYS):
            raise ValueError(f"{override}: expected a key that says how files are read: {', '.join(READING_KEYS)}")
    asked = apply_overrides({}, overrides)
    data = asked.get("data", {})
    source, columns = data.get("source"), data.get("columns")
    if source == "csv" or (source is None and (path.suffix.lower() in TABLES or columns)):
        tree = table_tree(path, columns)
    elif source == "folders" or (source is None and ("images" in data or "labels" in data)):
        tree = _two_folders(path) or _named_files(path) or _tree("folders", path)
    elif source is None:
        tree = recognise(path)
    else:
        of_classes = source in SOURCES and SOURCES[source].volumes is None
        tree = class_tree(source, path) if of_classes else _tree(source, path)
    return check_config({"name": "unnamed", "train": {"steps": 1}, **merge(tree, asked)}, where=str(path))


def recognise(path: Path) -> Tree:
    """Return the config keys that read the data set at `path`, by the first layout of FINDERS that fits.

    Raises ValueError where none does, saying what there is.
    """
    for find in FINDERS:
        if (tree := find(path)) is not None:
            return tree
    if path.is_dir() and len(tables := sorted(path.glob("*.csv"))) == 1:
        table_tree(tables[0])  # says what keeps it from being read as one of cases
    require_unpacked(path)
    if path.is_dir() and (reason := why_no_classes(path)) is not None:
        raise ValueError(f"{path}: {reason}")
    if path.suffix.lower() == ".npz" and path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a whole .npz archive; fetch the file again")
    found = describe_folder(path) if path.is_dir() else f"the file {path.name}"
    expected = "; ".join(f"{name}: {layout}" for name, layout in (*volume_layouts().items(), *CLASS_LAYOUTS.items()))
    raise ValueError(f"{path}: no known layout, found {found}; expected one of {expected}")


def _json_folder(path: Path) -> Tree | None:
    """Recognise a folder with dataset.json: nnU-Net's where it names channels or numbers them, else the Decathlon's."""
    root = path.parent if path.name == "dataset.json" else path
    if not (root / "dataset.json").is_file():
        return None
    try:
        facts = read_json(root)
    except ValueError:
        return _tree("msd", root)  # finding the cases says what is wrong with the file
    training = facts.get("training")
    numbered = _numbered(root / "imagesTr", facts.get("file_ending"))
    if "channel_names" in facts or (numbered and not _first_exists(root, training)):
        tree = _tree("nnunet", root)
        labels = facts.get("labels")
        ignore = labels.get("ignore") if isinstance(labels, dict) else None
        return {**tree, "loss": {"ignore_label": ignore}} if type(ignore) is int else tree
    return _tree("msd", root) if training is not None else None


def _table(path: Path) -> Tree | None:
    """Recognise a table of cases, or a folder with one."""
    tables = [path] if path.suffix.lower() in TABLES else sorted(path.glob("*.csv")) if path.is_dir() else []
    if len(tables) != 1:
        return None
    try:
        return table_tree(tables[0])
    except ValueError:  # a table of other facts
        if path.is_file():
            raise
        return None


def _numbered_folder(path: Path) -> Tree | None:
    """Recognise imagesTr/case_0000.nii.gz without a dataset.json."""
    return _tree("nnunet", path) if _numbered(path / "imagesTr") or _numbered(path / "imagesTs") else None


def _two_folders(path: Path) -> Tree | None:
    """Recognise a folder of images and one of labels, under any of their usual names."""
    folders = {sub.name.lower(): sub for sub in sorted(path.iterdir()) if sub.is_dir()} if path.is_dir() else {}
    images = next((folders[name] for name in IMAGE_FOLDERS if name in folders), None)
    labels = next((folders[name] for name in LABEL_FOLDERS if name in folders), None)
    if images is None:
        return None
    if not list_volumes(images):
        if labels is not None and (flat := next(filter(is_image, sorted(images.iterdir())), None)):
            raise ValueError(
                f"{images}: 2-D images ({flat.name} …) with label images: stack the slices of one patient into a "
                "volume, image and label alike; single 2-D images are not for this template"
            )
        return None
    tree = _tree("folders", path)
    tree["data"]["images"] = images.name
    if labels is not None:
        tree["data"]["labels"] = labels.name
    return tree


def _named_files(path: Path) -> Tree | None:
    """Recognise images and labels by their names: a folder a case, BIDS, or one flat folder."""
    guess = guess_patterns(path)
    if guess is None or guess.labels is None:
        return None
    tree = _tree("folders", path)
    tree["data"]["images"] = guess.images[0] if len(guess.images) == 1 else list(guess.images)
    tree["data"]["labels"] = guess.labels
    return tree


def _dicom(path: Path) -> Tree | None:
    """Recognise DICOM slices: right in the folder, or in folders of patients, studies and series."""
    if path.is_dir() and (holds_slices(path) or any(map(is_series, filter(Path.is_dir, list_volumes(path))))):
        return _tree("dicom", path)
    return None


def _loose_volumes(path: Path) -> Tree | None:
    """Recognise volumes right in the folder, without labels: not to train on, but to inspect."""
    if not path.is_dir() or not (volumes := list_volumes(path)) or any(is_medmnist(volume) for volume in volumes):
        return None
    if labels := [volume.name for volume in volumes if label_word(volume.name)]:
        raise ValueError(
            f"{path}: labels ({some(labels)}) that no image is named after; of the files of a single case give the "
            f"folder above it, else set patterns such as 'data.images=*_t1.nii.gz' 'data.labels=*_seg.nii.gz'"
        )
    tree = _tree("folders", path)
    tree["data"]["images"] = "."
    return tree


# In the order in which they are tried: the most explicit layout comes first.
FINDERS: tuple[Callable[[Path], Tree | None], ...] = (
    _json_folder, _table, _numbered_folder, _two_folders, _dicom, _named_files, find_class_folders, find_medmnist,
    _loose_volumes,
)  # fmt: skip


def _tree(source: str, root: Path) -> Tree:
    return {"data": {"source": source, "root": str(root)}}


def _numbered(folder: Path, ending: Any = None) -> bool:
    try:
        return bool(group_channels(folder, ending if isinstance(ending, str) else None))
    except ValueError:
        return True  # numbered, though with gaps


def _first_exists(root: Path, training: Any) -> bool:
    entries = training if isinstance(training, list) else []
    first = entries[0].get("image") if entries and isinstance(entries[0], dict) else None
    return isinstance(first, str) and (root / first).exists()
