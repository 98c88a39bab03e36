"""Layouts of cases with classes, recognised from names and small text files: folders, tables, MedMNIST archives."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from configs.schema.data import Columns, DataConfig
from data.files.errors import fault_of
from data.files.formats.registry import format_of
from data.files.images import is_frame_folder, is_image, is_stack
from data.files.videos import ENDINGS
from data.layouts.cases import list_volumes, some
from data.layouts.class_folders import list_class_folders
from data.layouts.names import Guess, guess_patterns
from data.layouts.table import read_table

Tree = dict[str, Any]  # the part of a config that says how files are read

CLASS_LAYOUTS = {
    "classes": "a folder of volumes or clips for each class",
    "csv for classification": "a table with the columns file and label, of class names",
    "medmnist": "an .npz with train_images and train_labels",
}


def class_tree(source: str, root: Path, clips: bool | None = None) -> Tree:
    """Return the config keys that read cases with classes; whether they are clips is looked up where None."""
    if clips is None:
        clips = source == "classes" and any(map(is_clip, root.rglob("*")))
    data: Tree = {"source": source, "root": str(root)}
    return {"task": "classification", "data": {**data, "clip": {}} if clips else data}


def table_tree(path: Path, columns: Any = None) -> Tree:
    """Return the config keys that read a table, by what its label column holds: files, or classes.

    `columns` is `data.columns`, where the names are not the usual ones. Raises ValueError.
    """
    chosen = Columns.model_validate(columns or {})
    table = read_table(DataConfig(source="csv", root=path, columns=chosen))
    labels = [cell for row in table.rows for cell in row.labels if cell]
    clips = any(is_clip(image) for row in table.rows for image in row.images)
    if not clips and not (labels and not any(_names_a_volume(cell) for cell in labels)):
        return {"data": {"source": "csv", "root": str(path)}}
    return class_tree("csv", path, clips)


def find_class_folders(path: Path) -> Tree | None:
    """Recognise a folder for each class, of clips or volumes, also below folders named train, val and test."""
    folders = class_folders(path)
    if len(folders) < 2:
        return None
    if all(any(map(is_clip, folder.iterdir())) for folder in folders):
        return class_tree("classes", path, clips=True)
    return class_tree("classes", path, clips=False) if _hold_classes(folders) else None


def find_medmnist(path: Path) -> Tree | None:
    """Recognise a MedMNIST archive, or a folder with one."""
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    found = [file for file in files if is_medmnist(file)]
    return class_tree("medmnist", found[0], clips=False) if len(found) == 1 else None


def class_folders(path: Path) -> list[Path]:
    """Return the folders with clips or volumes right in them, in `path` or below folders in it named as splits."""
    folders = [folder for _, folder in list_class_folders(path)] if path.is_dir() else []
    return [folder for folder in folders if any(is_clip(file) or is_volume(file) for file in folder.iterdir())]


def why_no_classes(path: Path) -> str | None:
    """Return why a folder of clips, or folders of volumes, are no cases with classes; None for anything else."""
    clips = [file.name for file in sorted(path.iterdir()) if is_clip(file)]
    if clips:
        return (
            f"video clips ({some(clips)}) without classes; move those of each class to a folder of its own, or list "
            f"them in a CSV with the columns file and label"
        )
    if folders := class_folders(path):
        what = "clips" if all(any(map(is_clip, folder.iterdir())) for folder in folders) else "volumes"
        guess = guess_patterns(path)
        patterns = (guess or Guess(("*/t1.nii.gz",), None)).overrides + " 'data.labels=*/….nii.gz'"
        return (
            f"folders of {what} ({some(folder.name for folder in folders)}): if each is a class, set "
            f"data.source=classes; if each is a case, name its label seg.nii.gz, give patterns ({patterns}), or list "
            f"the files in a CSV"
        )
    return None


def is_clip(path: Path) -> bool:
    """Return whether the name is that of a video, or the path a folder of frames or a TIFF of several pages."""
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in ENDINGS or is_stack(path) or (not is_image(path) and is_frame_folder(path))


def is_volume(path: Path) -> bool:
    """Return whether the name is that of a volume in a file: a slice is none."""
    known = format_of(path)
    return known is not None and known.is_at is None and not path.name.startswith(".")


def is_medmnist(path: Path) -> bool:
    """Return whether an archive holds images and labels of a split."""
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with fault_of(path), zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    return any({f"{split}_images.npy", f"{split}_labels.npy"} <= names for split in ("train", "val", "test"))


def _hold_classes(folders: list[Path]) -> bool:
    """Return whether folders of volumes are classes, each of several cases, rather than cases of files named alike."""
    names = [{file.name for file in list_volumes(folder)} for folder in folders]
    repeated = Counter(name for found in names for name in found)
    alike = sum(count > 1 for count in repeated.values())
    return max(map(len, names)) > 1 and alike <= len(repeated) / 2


def _names_a_volume(cell: str) -> bool:
    return format_of(Path(cell)) is not None
