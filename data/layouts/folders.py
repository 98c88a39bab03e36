"""Cases without a dataset.json: two folders matched by name, or a table."""

import logging
import re
from pathlib import Path

from configs.schema.data import DataConfig
from data.files.formats.dicom.folder import holds_slices
from data.files.images import is_frame_folder
from data.layouts.cases import Case, Listing, check_path, describe_folder, list_volumes, some, stem, strip_suffix
from data.layouts.class_folders import list_clips
from data.layouts.msd_nnunet import group_channels, warn_of_unmatched
from data.layouts.table import read_table

_log = logging.getLogger("mlx_volumes")

IMAGE_WORDS = "image|images|img|volume|vol|scan|orig"
LABEL_WORDS = "label|labels|lbl|seg|segmentation|mask|gt"


def find_folders(config: DataConfig) -> Listing:
    """Return cases of an image folder and a label folder (`data.images`, `data.labels`), matched by name.

    Names match without the file ending and one word that distinguishes images from labels: `_image`, `_img`,
    `_volume`, `_scan`, `_orig`; `_label`, `_lbl`, `_seg`, `_segmentation`, `_mask`, `_gt`; at the end, or in
    front (`img0001` and `label0001`). Without a label folder all cases are unlabelled. Raises ValueError for
    names that match twice, and where none matches.
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
    if labels and not set(images) & set(labels):
        raise ValueError(
            f"no image of {images_folder} ({some(p.name for p in images.values())}) has the name of a label of "
            f"{labels_folder} ({some(p.name for p in labels.values())}); rename them, or list them in a CSV"
        )
    if not labels:
        _log.warning("%s: no labels, all %d cases are unlabelled", labels_folder, len(images))
    warn_of_unmatched(images_folder, images, labels_folder, labels)
    return Listing(tuple(Case(name, (path,), labels.get(name)) for name, path in images.items()))


def find_images(folder: Path, clips: bool = False, grouped: bool = True) -> tuple[Case, ...]:
    """Return unlabelled cases: each volume or clip right in a folder, or one file, or one folder of slices or frames.

    With `grouped`, volumes named case_0000, case_0001 … are the channels of one case. Raises ValueError where there
    are none.
    """
    if folder.is_file() or (is_frame_folder(folder) if clips else holds_slices(folder)):
        return (Case(stem(folder), (folder,)),)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such file or folder")
    files = list_clips(folder) if clips else list_volumes(folder)
    if not files:
        raise ValueError(f"{folder}: no {'clips' if clips else 'volumes'}; found {describe_folder(folder)}")
    channels = group_channels(folder) if grouped and not clips else {}
    if sum(map(len, channels.values())) == len(files):
        return tuple(Case(name, paths) for name, paths in channels.items())
    return tuple(Case(stem(path), (path,)) for path in files)


def find_unlabelled_rows(path: Path, config: DataConfig) -> tuple[Case, ...]:
    """Return the cases of a table, or of the only CSV in a folder without volumes or clips; else none.

    Its columns are those of `data.columns`, where these name images and ids. Raises ValueError.
    """
    is_table = path.is_file() and path.suffix.lower() in (".csv", ".tsv")
    if not is_table:
        tables = sorted(path.glob("*.csv")) if path.is_dir() else []
        if len(tables) != 1 or list_clips(path):
            return ()
        path = tables[0]
    columns = config.columns.model_copy(update=dict.fromkeys(("label", "split", "fold", "group"), ""))
    table = read_table(config.model_copy(update={"root": path, "columns": columns}))
    return tuple(Case(row.id, row.images) for row in table.rows)


def find_csv(config: DataConfig) -> Listing:
    """Return cases of a table with image and label files; see `data.layouts.table`."""
    table = read_table(config)
    if len(table.labels) > 1:
        raise ValueError(f"data.columns.label={list(table.labels)}: segmentation takes one column, of label files")
    cases = []
    for row in table.rows:
        if any(row.labels):
            check_path(row.labels[0], f"{table.path}: row {row.line}")
        label = table.folder / row.labels[0] if any(row.labels) else None
        cases.append(Case(row.id, row.images, label, row.split, row.group, fold=row.fold))
    return Listing(tuple(cases))


def _by_name(folder: Path, words: str) -> dict[str, Path]:
    """Return volumes by the part of their names that images and labels share."""
    named: dict[str, Path] = {}
    for path in list_volumes(folder):
        name = strip_suffix(path.name)
        bare = re.sub(rf"[-_.]({words})$", "", name, flags=re.IGNORECASE)
        if bare == name:
            bare = re.sub(rf"^({words})([-_.]|(?=\d))", "", name, flags=re.IGNORECASE) or name
        if bare in named:
            raise ValueError(f"{folder}: {named[bare].name} and {path.name} are both case {bare!r}; rename one")
        named[bare] = path
    return named
