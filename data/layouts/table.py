"""The rows of a table of cases, for all tasks."""

import csv
import io
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema.data import DataConfig
from data.files.gzip import read_text
from data.layouts.cases import check_path, only_file, stem

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


@dataclass(frozen=True)
class Row:
    """One case of a table. `images` are paths; `labels` are the label cells as written, empty ones too."""

    line: int
    id: str
    images: tuple[Path, ...]
    labels: tuple[str, ...]
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Table:
    """A table's rows; paths in it are relative to its folder. `labels` are its label columns' names."""

    path: Path
    labels: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(config: DataConfig) -> Table:
    """Return the cases of a table with a header line: image, label, id, split and group columns (`data.columns`).

    `data.root` is the file, or a folder with one CSV in it; paths are relative to the CSV's folder, or
    absolute. Comma, semicolon and tab separate. Empty cells mean that there is none. Raises ValueError.
    """
    path = only_file(config.root, ".csv")
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        cells = [row for row in reader if any(isinstance(cell, str) and cell.strip() for cell in row.values())]
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); write it again") from None
    columns = _columns(config, list(reader.fieldnames), path)
    if not cells:
        raise ValueError(f"{path}: no rows below its header")
    rows = [_row(row, columns, path, number) for number, row in enumerate(cells, start=2)]
    if "id" not in columns:
        repeated = {name for name, count in Counter(row.id for row in rows).items() if count > 1}
        rows = [replace(row, id=f"{row.images[0].parent.name}_{row.id}") if row.id in repeated else row for row in rows]
    return Table(path, columns.get("label", ()), tuple(rows))


def _columns(config: DataConfig, found: list[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Return the table's columns by what they mean."""
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
            f"{path}: no image column (looked for {', '.join(ALIASES['image'])}); it has {', '.join(found) or 'none'}; "
            f"set data.columns.image"
        )
    return columns


def _row(row: dict[str, str | None], columns: dict[str, tuple[str, ...]], path: Path, line: int) -> Row:
    def cells(role: str) -> tuple[str, ...]:
        return tuple((row.get(name) or "").strip() for name in columns.get(role, ()))

    def cell(role: str) -> str:
        return next(iter(cells(role)), "")

    texts = cells("image")
    if not all(texts):
        raise ValueError(f"{path}: row {line} has no {columns['image'][texts.index('')]}")
    for text in texts:
        check_path(text, f"{path}: row {line}")
    images = tuple(path.parent / text for text in texts)
    split = cell("split").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{path}: row {line} has split {split!r}; expected train, val or test")
    name = cell("id") or stem(images[0])
    return Row(line, name, images, cells("label"), SPLITS.get(split), cell("group") or None)
