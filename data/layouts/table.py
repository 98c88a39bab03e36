"""The rows of a table of cases, for all tasks."""

import csv
import difflib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from configs.schema.data import Columns, DataConfig
from data.files.gzip import read_text
from data.layouts.cases import Case, check_path, only_file, shown, some, stem

_log = logging.getLogger("mlx_volumes")

SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "development": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
ALIASES = {
    "image": ("image", "path", "file"),
    "label": ("label",),
    "id": ("id", "case"),
    "split": ("split",),
    "fold": ("fold",),
    "group": ("group", "subject", "patient"),
    "start": ("start", "start_s", "start_time", "time_start"),
    "end": ("end", "end_s", "end_time", "time_end"),
}
PATTERNS = ("image", "label")  # which may be patterns, such as {id}.mp4
_FORMAT = re.compile(r"0?\d{1,2}d|\.\d{1,2}f")  # of a number in a pattern: {start:06d}, {start:.2f}

Cells = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One case of a table. `images` are paths; `labels` are the label cells as written, empty ones too."""

    line: int
    id: str
    images: tuple[Path, ...]
    labels: tuple[str, ...]
    split: str | None
    group: str | None
    fold: str | None = None
    train_label: str = ""  # as `labels`
    interval_s: tuple[float, float] | None = None  # of a segment of a clip


@dataclass(frozen=True)
class Table:
    """A table's rows; paths in it are relative to `folder`. `labels` are its label columns' names."""

    path: Path
    folder: Path
    labels: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(config: DataConfig) -> Table:
    """Return the cases of a table with a header line: image, label, id, split, fold and group columns (`data.columns`).

    `data.root` is the file, or a folder with one CSV in it; paths are absolute, or relative to the CSV's folder or, in
    that, to `data.columns.folder`. Comma, semicolon and tab separate. Empty cells mean that there is none. With
    `data.clip`, columns start and end cut segments out of clips; those of a file are one group where no column has
    groups. Raises ValueError.
    """
    path = only_file(config.root, ".csv")
    found, cells = _read_cells(path)
    columns = _columns(config.columns, found, path)
    if (train := config.train_labels) is not None and (train in found or "{" in train):
        _require_columns(train, found, "data.train_labels", path, patterns=True)
        columns["train_label"] = (train,)
    if config.clip is None or (config.columns.start is None and _names_start(columns)):
        columns = {role: names for role, names in columns.items() if role not in ("start", "end")}
    if not cells:
        raise ValueError(f"{path}: no rows below its header")
    folder = path.parent / config.columns.folder
    splits = SPLITS | {str(name).lower(): split for name, split in (config.columns.splits or {}).items()}
    rows = [_row(row, columns, f"{path}: row {line}", line, folder, splits) for line, row in cells]
    if config.columns.group is False:
        rows = [replace(row, group=None) for row in rows]
    _warn_of_torn_clips(path, rows)
    rows = _told_apart(
        rows, lambda row: row.id if row.interval_s is None else "{}_{:g}-{:g}".format(row.id, *row.interval_s)
    )
    if "id" not in columns:
        rows = _told_apart(rows, lambda row: f"{row.images[0].parent.name}_{row.id}")
    return Table(path, folder, columns.get("label", ()), tuple(rows))


def _told_apart(rows: Sequence[Row], longer: Callable[[Row], str]) -> list[Row]:
    """Return the rows; of those that share an id each has its `longer` one."""
    repeated = {name for name, count in Counter(row.id for row in rows).items() if count > 1}
    return [replace(row, id=longer(row)) if row.id in repeated else row for row in rows]


def _warn_of_torn_clips(path: Path, rows: Sequence[Row]) -> None:
    """Warn of clips whose segments are in several groups: they are alike, so scores flatter."""
    groups: dict[Path, set[str | None]] = {}
    for row in rows:
        if row.interval_s is not None:
            groups.setdefault(row.images[0], set()).add(row.group)
    if torn := [clip.name for clip, names in groups.items() if len(names) > 1]:
        text = "%s: segments of one clip are in several groups (%s): training and validation may share it"
        _log.warning(text, path, some(torn))


def require_files(cases: Sequence[Case], config: DataConfig) -> None:
    """Raise ValueError where a table's files are all looked for in the wrong place: none of them exists."""
    images = [path for case in cases for path in case.images]
    if config.source == "csv" and not any(path.exists() for path in images):
        raise ValueError(
            f"{config.root}: none of its {len(images)} files exists, the first is {images[0]}; say where they lie with "
            "data.columns.folder, or how they are named with a pattern such as 'data.columns.image={id}.mp4'"
        )


def _read_cells(path: Path) -> tuple[list[str], list[tuple[int, Cells]]]:
    """Return the columns' names, and of each row with something in it (line, cells by column)."""
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    rows: list[tuple[int, Cells]] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells[len(names) :]):
                raise ValueError(
                    f"{path}: row {reader.line_num} has {len(cells)} cells, the header {len(names)} columns; "
                    f"put cells that hold {shown(delimiter)} in double quotes"
                )
            if any(cells):
                rows.append((reader.line_num, dict(zip(names, cells, strict=False))))
    except csv.Error as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); write it again") from None
    return names, rows


def _columns(asked: Columns, found: list[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Return the table's columns, or patterns of columns, by what they mean."""
    columns: dict[str, tuple[str, ...]] = {}
    by_lower = {name.lower(): name for name in found}
    for role, aliases in ALIASES.items():
        named = getattr(asked, role)
        if named is False:
            continue
        if named is not None:
            columns[role] = (named,) if isinstance(named, str) else tuple(named)
            for name in columns[role]:
                _require_columns(name, found, f"data.columns.{role}", path, role in PATTERNS)
        elif alias := next((alias for alias in aliases if alias in by_lower), None):
            columns[role] = (by_lower[alias],)
    if "image" not in columns:
        raise ValueError(
            f"{path}: no image column (looked for {', '.join(ALIASES['image'])}); it has {', '.join(found) or 'none'}; "
            f"set data.columns.image"
        )
    if twice := [name for names in columns.values() for name in names if found.count(name) > 1]:
        raise ValueError(f"{path}: the header has the column {twice[0]!r} twice; rename one")
    return columns


def _require_columns(name: str, found: Sequence[str], key: str, path: Path, patterns: bool) -> None:
    """Raise ValueError unless the name is that of a column, or a pattern of columns."""
    if name in found:
        return
    parts = [name]
    if patterns and "{" in name:
        try:
            parsed = list(Formatter().parse(name))
        except ValueError as error:
            raise ValueError(f"{key}: {name!r} is no pattern ({error}); write it as in {{id}}.mp4") from None
        for _, _, form, conversion in parsed:
            if conversion or (form and not _FORMAT.fullmatch(form)):
                raise ValueError(f"{key}: {name!r}: a column in it is written {{name}}, {{name:06d}} or {{name:.2f}}")
        parts = [part for _, part, _, _ in parsed if part is not None]
    for part in parts:
        if part not in found:
            near = difflib.get_close_matches(part, found, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{key}: no column {part!r} in {path}; {hint}it has {', '.join(found)}")


def _names_start(columns: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether files are named by their start: they hold a segment each."""
    starts = columns.get("start", ())
    return any(part in starts for name in columns["image"] for _, part, _, _ in Formatter().parse(name))


def _fill(name: str, row: Cells, where: str) -> str:
    """Return the cell of a column, or a pattern with its columns' cells; "" where one of these is empty."""
    if "{" not in name or name in row:
        return row.get(name, "")
    text = ""
    for literal, part, form, _ in Formatter().parse(name):
        text += literal
        if part is not None:
            cell = row.get(part, "")
            if not cell:
                return ""
            text += _formatted(cell, form, where, part) if form else cell
    return text


def _formatted(cell: str, form: str, where: str, column: str) -> str:
    try:
        return format(int(cell) if form.endswith("d") else float(cell), form)
    except ValueError:
        kind = "whole number" if form.endswith("d") else "number"
        raise ValueError(f"{where} has {column} {shown(cell)}; {{{column}:{form}}} expects a {kind}") from None


def _row(
    row: Cells,
    columns: Mapping[str, tuple[str, ...]],
    where: str,
    line: int,
    folder: Path,
    splits: Mapping[str, str],
) -> Row:
    def cell(role: str) -> str:
        return row.get(columns[role][0], "") if role in columns else ""

    texts = [_fill(name, row, where) for name in columns["image"]]
    if not all(texts):
        raise ValueError(f"{where} has no {columns['image'][texts.index('')]}")
    for text in texts:
        check_path(text, where)
    images = tuple(folder / text for text in texts)
    split = cell("split").lower()
    if split and split not in splits:
        raise ValueError(
            f"{where} has {columns['split'][0]} {cell('split')!r}; expected train, val or test, or say what it means: "
            f"'data.columns.splits={{{cell('split')}: train}}'"
        )
    labels = tuple(_fill(name, row, where) for name in columns.get("label", ()))
    name = cell("id") or stem(images[0])
    train_label = _fill(columns["train_label"][0], row, where) if "train_label" in columns else ""
    interval_s = _interval(cell("start"), cell("end"), where)
    group = cell("group") or None
    if "start" in columns or "end" in columns:
        group = group if "group" in columns else texts[0]
    return Row(line, name, images, labels, splits.get(split), group, cell("fold") or None, train_label, interval_s)


def _interval(start: str, end: str, where: str) -> tuple[float, float] | None:
    """Return the seconds of an interval, None of empty cells: the whole clip. Raises ValueError for other texts."""
    if not start and not end:
        return None
    first, last = _seconds(start or "0", where, "start"), _seconds(end, where, "end")
    if last <= first:
        raise ValueError(f"{where} ends at {end}, which is not after its start, {start or 0}; correct it")
    return first, last


def _seconds(text: str, where: str, name: str) -> float:
    """Return the seconds of a text such as 72.5 or 0:01:12.5."""
    if not re.fullmatch(r"(\d{1,4}:){0,2}\d{1,9}(\.\d{1,9})?", text):
        raise ValueError(f"{where} has {name} {text!r}; expected seconds, as in 72.5 or 0:01:12.5")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
