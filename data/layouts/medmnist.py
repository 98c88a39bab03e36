"""MedMNIST's 3-D sets as published: one `.npz` with images and labels of each split (Yang et al. 2023)."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from configs.schema.data import DataConfig
from data.files.errors import FileProblem
from data.files.gzip import RESTORE
from data.layouts.cases import Case, Listing, describe_folder, some
from data.layouts.class_folders import class_names_of

SPLITS = ("train", "val", "test")


def find_medmnist(config: DataConfig, class_names: tuple[str, ...] | None) -> Listing:
    """Cases of `<split>_images` (N, D, H, W) and `<split>_labels` (N, 1); splits may be missing.

    A case is a row, `train_0007`. Labels of several columns are classes that may coincide. The split is what
    `data.split.kind=given` keeps. Raises ValueError for arrays that do not fit together.
    """
    path = _archive(config.root)
    found = {name: _header(path, f"{name}_images") for name in SPLITS}
    shapes = {name: shape for name, shape in found.items() if shape is not None}
    if not shapes:
        raise ValueError(f"data.root={path}: no train_images, val_images or test_images; it holds {_names(path)}")
    labels = {name: read_labels(path, name, shape[0]) for name, shape in shapes.items()}
    if len({shape[1:] for shape in shapes.values()}) > 1 or len({array.shape[1] for array in labels.values()}) > 1:
        raise ValueError(f"{path}: the splits differ in shape: images {shapes}")
    if any(len(shape) not in (4, 5) or (len(shape) == 4 and shape[3] <= 4) for shape in shapes.values()):
        raise ValueError(f"{path}: images of {next(iter(shapes.values()))}, expected (cases, D, H, W): a 3-D set")
    columns = next(iter(labels.values())).shape[1]
    if columns > 1:
        names = tuple(class_names or (str(number) for number in range(columns)))
    else:
        texts = [str(value) for array in labels.values() for value in array[:, 0].tolist()]
        names = tuple(class_names or class_names_of(texts, f"{path}: the labels"))
    highest = columns - 1 if columns > 1 else max(int(array.max()) for array in labels.values())
    if highest >= len(names):
        raise ValueError(f"data.class_names={list(names)}: {path} has classes up to {highest}")
    cases = []
    for name, array in labels.items():
        digits = len(str(len(array) - 1))
        for row, values in enumerate(array.tolist()):
            label = tuple(values) if columns > 1 else values[0]
            cases.append(Case(f"{name}_{row:0{digits}}", (path,), label, name, member=(f"{name}_images", row)))
    return Listing(tuple(cases), names, labels="classes" if columns > 1 else "class")


def read_labels(path: Path, split: str, cases: int) -> np.ndarray:
    """A split's labels (N, K) int64. Raises ValueError where they are missing, or not one a case."""
    name = f"{split}_labels"
    if _header(path, name) is None:
        raise ValueError(f"{path}: {split}_images without {name}")
    labels = read_member(path, name)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or len(labels) != cases or labels.dtype.kind not in "iub" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: {name} of {labels.dtype} {labels.shape}, expected whole numbers for {cases} cases")
    if labels.shape[1] > 1 and labels.max() > 1:
        raise ValueError(f"{path}: {name} has {labels.shape[1]} columns, which must be 0 or 1; got {labels.max()}")
    return labels.astype(np.int64)


def read_member(path: Path, name: str) -> np.ndarray:
    """One array of the archive. Raises FileProblem."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return npy.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FileProblem(path, f"damaged array {name} ({error})", RESTORE) from None


def _header(path: Path, name: str) -> tuple[int, ...] | None:
    """Shape of an array, None where the archive has none of that name."""
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                return None
            with archive.open(f"{name}.npy") as file:
                read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FileProblem(path, f"damaged .npz archive ({error})", RESTORE) from None
    if name.endswith("_images") and dtype.kind not in "biuf":
        raise FileProblem(path, f"{name} of {dtype}, expected real numbers", "save it as such")
    return shape


def _archive(root: Path) -> Path:
    if not root.is_dir():
        return root
    archives = sorted(root.glob("*.npz"))
    if len(archives) != 1:
        found = some(path.name for path in archives) if archives else describe_folder(root)
        raise ValueError(f"data.root={root}: expected exactly one .npz in it, found {found}; name the file itself")
    return archives[0]


def _names(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return some(name.removesuffix(".npy") for name in archive.namelist())
