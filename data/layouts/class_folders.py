"""Cases with a class each: a folder for every class, or a table."""

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema.data import DataConfig
from data.files.formats.registry import format_of
from data.files.images import is_frame_folder, is_image, is_stack
from data.layouts.cases import Case, Listing, describe_folder, list_volumes, some, stem
from data.layouts.table import SPLITS, Row, read_table

_log = logging.getLogger("mlx_volumes")

# Files that lie beside clips in class folders; all others are taken for clips.
NOT_CLIPS = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yaml", ".yml", ".html", ".pdf", ".py", ".zip", ".srt")


def find_classes(config: DataConfig, class_names: Sequence[str] | None) -> Listing:
    """Return cases of `root/<class>/<file>`, or of `root/<split>/<class>/<file>` with splits train, val, test.

    Each file is a case: a volume, or with `data.clip` a clip, which may also be a folder of frames. Classes are the
    folders' names in alphabetical order, or in that of `class_names`. Raises ValueError.
    """
    root, places = config.root, list_class_folders(config.root)
    if not places:
        raise ValueError(
            f"data.root={root}: data.source=classes needs a folder for each class; found {describe_folder(root)}"
        )
    names = tuple(class_names or sorted({folder.name for _, folder in places}))
    cases = []
    for split, folder in places:
        if folder.name not in names:
            raise ValueError(f"{folder}: not one of the classes {', '.join(names)}; rename it, or set data.class_names")
        if config.clip is not None and is_frame_folder(folder):
            raise ValueError(
                f"{folder}: holds frames, so that it is a clip and no class; put it into a folder of its class, "
                f"CLASS/{folder.name}/"
            )
        files = list_clips(folder) if config.clip is not None else list_volumes(folder)
        if not files:
            kind = "clips" if config.clip is not None else "volumes (for video, set data.clip)"
            raise ValueError(f"{folder}: no {kind}; found {describe_folder(folder)}")
        cases += [Case(stem(path), (path,), names.index(folder.name), split) for path in files]
    return Listing(_told_apart(cases), names, labels="class")


def find_labelled_table(config: DataConfig, class_names: Sequence[str] | None) -> Listing:
    """Return cases of a table whose label column holds class names or numbers; an empty cell is no label.

    Several label columns (`data.columns.label`), of 0 and 1, are classes that may coincide. Numbers count
    from 0. Raises ValueError for other labels.
    """
    table = read_table(config)
    train_labels: list[int | None] = [None] * len(table.rows)
    if config.train_labels is not None and (len(table.labels) > 1 or not any(row.train_label for row in table.rows)):
        fix = "the training labels of classes are one column of the table, beside one label column"
        raise ValueError(f"data.train_labels={config.train_labels!r}: no column with labels in {table.path}; {fix}")
    if len(table.labels) > 1:
        labels: list[int | tuple[int, ...] | None] = []
        for row in table.rows:
            if any(row.labels) and not set(row.labels) <= {"0", "1"}:
                raise ValueError(
                    f"{table.path}: row {row.line} has {dict(zip(table.labels, row.labels, strict=True))}; "
                    "classes in columns of their own are 0 or 1"
                )
            labels.append(tuple(int(cell) for cell in row.labels) if any(row.labels) else None)
        names = tuple(class_names or table.labels)
        if len(names) != len(table.labels):
            raise ValueError(f"data.class_names={list(names)}: there are {len(table.labels)} label columns")
    else:
        texts = [next(iter(row.labels), "") for row in table.rows]
        train_texts = [row.train_label for row in table.rows]
        names = tuple(class_names or class_names_of([*texts, *train_texts], f"{table.path}: the label column"))
        labels = [_class_of(row, text, names, table.path) for row, text in zip(table.rows, texts, strict=True)]
        train_labels = [_class_of(row, row.train_label, names, table.path) for row in table.rows]
    cases = [
        Case(row.id, row.images, label, row.split, row.group, None, row.fold, train_label, row.interval_s)
        for row, label, train_label in zip(table.rows, labels, train_labels, strict=True)
    ]
    return Listing(tuple(cases), names, labels="classes" if len(table.labels) > 1 else "class")


def _class_of(row: Row, text: str, names: Sequence[str], table: Path) -> int | None:
    return class_number(text, names, f"{table}: row {row.line}") if text else None


def class_names_of(texts: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the classes that labels stand for: "0", "1", ... up to the highest number, or the names in order."""
    known = sorted(set(texts) - {""})
    if not known:
        raise ValueError(f"{where} holds no label; name it in data.columns.label")
    if all(text.isdecimal() for text in known):
        highest = max(int(text) for text in known)
        if highest >= 2 * len(known):
            raise ValueError(f"{where} holds the numbers {some(known)}: number the classes from 0, or name them")
        return tuple(str(number) for number in range(highest + 1))
    if any(format_of(Path(text)) for text in known):
        raise ValueError(f"{where} holds files ({some(known)}), which is for task=segmentation")
    if len(known) > 20 and len(known) == sum(1 for text in texts if text):
        raise ValueError(f"{where} holds another value in each row ({some(known)}), no classes")
    return tuple(known)


def class_number(text: str, names: Sequence[str], where: str) -> int:
    """Return the class that a name, or else a number, stands for. Raises ValueError with the nearest name."""
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    near = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(names)}"
    raise ValueError(f"{where} has the label {text!r}, which is no class; {hint}")


def _told_apart(cases: list[Case]) -> tuple[Case, ...]:
    """Return the cases; where several have one name, their folders' names are part of it."""
    repeated = {name for name, count in Counter(case.id for case in cases).items() if count > 1}
    if not repeated:
        return tuple(cases)
    return tuple(
        replace(case, id="_".join([*filter(None, [case.split]), case.images[0].parent.name, case.id]))
        if case.id in repeated
        else case
        for case in cases
    )


def list_class_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Return (split or None, folder) of the folders in `root`, or of those below it where it holds those of splits."""
    folders = _subfolders(root)
    splits = {folder: SPLITS.get(folder.name.lower()) for folder in folders}
    if all(splits.values()):
        return [(split, folder) for parent, split in splits.items() for folder in _subfolders(parent)]
    return [(None, folder) for folder in folders]


def list_clips(folder: Path) -> list[Path]:
    """Return the files and folders of frames right in a folder that may be clips, sorted.

    Hidden ones and NOT_CLIPS are left out, other folders with a warning. Raises ValueError for loose images.
    """
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders, files = [path for path in there if path.is_dir()], [path for path in there if not path.is_dir()]
    files = [path for path in files if path.suffix.lower() not in NOT_CLIPS]
    if loose := [path.name for path in files if is_image(path) and not is_stack(path)]:
        raise ValueError(
            f"{folder}: {len(loose)} images beside clips ({some(loose)}); put the frames of each clip into a folder of "
            "its own, or remove them"
        )
    frames = [path for path in folders if is_frame_folder(path)]
    if others := [path.name for path in folders if path not in frames]:
        _log.warning("%s: folders that are no clips are not read: %s", folder, some(others))
    return sorted(files + frames)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
