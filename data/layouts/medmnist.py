"""MedMNIST's 3-D sets as published: one `.npz` with images and labels of each split (Yang et al. 2023)."""

from pathlib import Path

import numpy as np

from configs.schema.data import DataConfig
from data.files.errors import FileProblem
from data.files.formats.npy import read_member, read_member_headers
from data.layouts.cases import Case, Listing, only_file, some
from data.layouts.class_folders import class_names_of

SPLITS = ("train", "val", "test")


def find_medmnist(config: DataConfig, class_names: tuple[str, ...] | None) -> Listing:
    """Return cases of `<split>_images` (N, D, H, W) and `<split>_labels` (N, 1); splits may be missing.

    A case is a row, `train_0007`. Labels of several columns are classes that may coincide. The split is what
    `data.split.kind=given` keeps. Raises ValueError for arrays that do not fit together.
    """
    path = only_file(config.root, ".npz")
    found = _headers(path)
    shapes = {name: found[f"{name}_images"] for name in SPLITS if f"{name}_images" in found}
    if not shapes:
        raise ValueError(f"data.root={path}: no train_images, val_images or test_images; it holds {some(found)}")
    if any(len(shape) not in (4, 5) or (len(shape) == 4 and shape[3] <= 4) for shape in shapes.values()):
        raise ValueError(f"{path}: images of {next(iter(shapes.values()))}, expected (cases, D, H, W): a 3-D set")
    for name in shapes:
        if f"{name}_labels" not in found:
            raise ValueError(f"{path}: {name}_images without {name}_labels")
    labels = {name: read_labels(path, name, shape[0]) for name, shape in shapes.items()}
    if len({shape[1:] for shape in shapes.values()}) > 1 or len({array.shape[1] for array in labels.values()}) > 1:
        raise ValueError(f"{path}: the splits differ in shape: images {shapes}")
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
    """Return a split's labels (N, K) int64. Raises ValueError where they are missing, or not one a case."""
    name = f"{split}_labels"
    labels = read_member(path, name)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.ndim != 2 or len(labels) != cases or labels.dtype.kind not in "iub" or labels.min(initial=0) < 0:
        raise ValueError(f"{path}: {name} of {labels.dtype} {labels.shape}, expected whole numbers for {cases} cases")
    if labels.shape[1] > 1 and labels.max() > 1:
        raise ValueError(f"{path}: {name} has {labels.shape[1]} columns, which must be 0 or 1; got {labels.max()}")
    return labels.astype(np.int64)


def _headers(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the archive's arrays, by name. Raises FileProblem for images that are no numbers."""
    found = read_member_headers(path)
    for name, (_, dtype) in found.items():
        if name.endswith("_images") and dtype.kind not in "biuf":
            raise FileProblem(path, f"{name} of {dtype}, expected real numbers", "save it as such")
    return {name: shape for name, (shape, _) in found.items()}
