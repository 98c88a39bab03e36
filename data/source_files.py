"""Cases without a dataset.json: two folders matched by name, or a table."""

import csv
import io
import logging
import re
from collections import Counter
from pathlib import Path

from configs.data_schema import DataConfig
from data.cases import Case, Listing, describe_folder, list_volumes, some, strip_suffix
from data.source_json import group_channels

LOG = logging.getLogger("mlx_volumes")

IMAGE_WORDS = "image|images|img|volume|vol|scan|orig"
LABEL_WORDS = "label|labels|lbl|seg|segmentation|mask|gt"
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
ALIASES = {
    "image": ("image", "path", "file"),
    "label": ("label",),
    "id": ("id", "case"),
    "split": ("split",),
    "group": ("group", "subject", "patient"),
}


def find_folders(config: DataConfig) -> Listing:
    """Cases of an image folder and a label folder (`data.images`, `data.labels`), matched by name.

    Names match after the file ending and one word that tells images from labels are gone: `_image`, `_img`,
    `_volume`, `_scan`, `_orig`; `_label`, `_lbl`, `_seg`, `_segmentation`, `_mask`, `_gt`; at the end, or in
    front (`img0001` and `label0001`). Without a label folder all cases are unlabelled. Raises ValueError for
    names that match twice, or never.
    """
    images_folder, labels_folder = config.root / config.images, config.root / config.labels
    if not images_folder.is_dir():
        raise ValueError(
            f"data.images={config.images!r}: no such folder in {config.root}; found {describe_folder(config.root)}"
        )
    images = _by_name(images_folder, IMAGE_WORDS)
    labels = _by_name(labels_folder, LABEL_WORDS) if labels_folder.is_dir() else {}
    if not images:
        raise ValueError(f"{images_folder}: no volumes; found {describe_folder(images_folder)}")
    unlabelled, orphans = sorted(set(images) - set(labels)), sorted(set(labels) - set(images))
    if labels and len(unlabelled) == len(images):
        raise ValueError(
            f"no image of {images_folder} ({some(p.name for p in images.values())}) has the name of a label of "
            f"{labels_folder} ({some(p.name for p in labels.values())}); rename them, or list them in a CSV"
        )
    if not labels:
        LOG.warning("%s: no labels, all %d cases are unlabelled", labels_folder, len(images))
    elif unlabelled:
        LOG.warning("%s: no label for %s", images_folder, some(unlabelled))
    if orphans:
        LOG.warning("%s: no image for %s", labels_folder, some(orphans))
    return Listing(tuple(Case(name, (path,), labels.get(name)) for name, path in images.items()))


def find_images(folder: Path) -> tuple[Case, ...]:
    """Unlabelled cases of a folder of volumes: case_0000, case_0001 ... are channels, else a file is a case."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of images")
    volumes = list_volumes(folder)
    if not volumes:
        raise ValueError(f"{folder}: no volumes; found {describe_folder(folder)}")
    grouped = group_channels(folder)
    if sum(map(len, grouped.values())) == len(volumes):
        return tuple(Case(name, files) for name, files in grouped.items())
    return tuple(Case(strip_suffix(path.name), (path,)) for path in volumes)


def find_csv(config: DataConfig) -> Listing:
    """Cases of a table with a header line: image, label, id, split and group columns (`data.columns`).

    `data.root` is the file, or a folder with one CSV in it; paths are relative to the CSV's folder, or
    absolute. Comma, semicolon and tab separate. Empty cells mean that there is none.
    """
    path = _table_path(config.root)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.root={path}: cannot be read as a table ({error})") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    columns = _columns(config, [name.strip() for name in reader.fieldnames or []], path)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    rows = [row for row in reader if any(isinstance(cell, str) and cell.strip() for cell in row.values())]
    if not rows:
        raise ValueError(f"{path}: no rows below its header")
    cases = [_row_case(row, columns, path, number) for number, row in enumerate(rows, start=2)]
    if "id" not in columns:
        repeated = {name for name, count in Counter(case.id for case in cases).items() if count > 1}
        cases = [
            Case(f"{case.images[0].parent.name}_{case.id}", *_rest(case)) if case.id in repeated else case
            for case in cases
        ]
    return Listing(tuple(cases))


def _by_name(folder: Path, words: str) -> dict[str, Path]:
    """Volumes by the part of their names that images and labels share."""
    named: dict[str, Path] = {}
    for path in list_volumes(folder):
        stem = strip_suffix(path.name)
        bare = re.sub(rf"[-_.]({words})$", "", stem, flags=re.IGNORECASE)
        if bare == stem:
            bare = re.sub(rf"^({words})([-_.]|(?=\d))", "", stem, flags=re.IGNORECASE) or stem
        if bare in named:
            raise ValueError(f"{folder}: {named[bare].name} and {path.name} are both case {bare!r}; rename one")
        named[bare] = path
    return named


def _table_path(root: Path) -> Path:
    if not root.is_dir():
        return root
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        found = some(table.name for table in tables) if tables else describe_folder(root)
        raise ValueError(f"data.root={root}: expected exactly one .csv in it, found {found}; name the file itself")
    return tables[0]


def _columns(config: DataConfig, found: list[str], path: Path) -> dict[str, tuple[str, ...]]:
    """The table's columns by what they mean."""
    columns: dict[str, tuple[str, ...]] = {}
    by_lower = {name.lower(): name for name in found}
    for role, aliases in ALIASES.items():
        asked = getattr(config.columns, role)
        if asked is not None:
            names = (asked,) if isinstance(asked, str) else tuple(asked)
            for name in names:
                if name not in found:
                    raise ValueError(f"data.columns.{role}: no column {name!r} in {path}; it has {', '.join(found)}")
            columns[role] = names
        elif alias := next((alias for alias in aliases if alias in by_lower), None):
            columns[role] = (by_lower[alias],)
    if "image" not in columns:
        raise ValueError(
            f"{path}: no image column (looked for {', '.join(ALIASES['image'])}); it has {', '.join(found)}; "
            f"set data.columns.image"
        )
    return columns


def _row_case(row: dict[str, str | None], columns: dict[str, tuple[str, ...]], path: Path, line: int) -> Case:
    def cell(role: str) -> str:
        return (row.get(columns[role][0]) or "").strip() if role in columns else ""

    texts = [(row.get(name) or "").strip() for name in columns["image"]]
    if not all(texts):
        raise ValueError(f"{path}: row {line} has no {columns['image'][texts.index('')]}")
    images = tuple(path.parent / text for text in texts)
    split = cell("split").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{path}: row {line} has split {split!r}; expected train, val or test")
    label = path.parent / cell("label") if cell("label") else None
    name = cell("id") or strip_suffix(images[0].name)
    return Case(name, images, label, SPLITS.get(split), cell("group") or None)


def _rest(case: Case) -> tuple[tuple[Path, ...], Path | None, str | None, str | None]:
    return case.images, case.label, case.split, case.group
