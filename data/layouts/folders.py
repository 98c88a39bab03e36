"""Cases without a dataset.json: two folders matched by name, files matched by patterns, or a table."""

import re
from collections.abc import Sequence
from pathlib import Path

from configs.schema.data import DataConfig
from data.files.formats.dicom.folder import holds_slices
from data.files.images import is_frame_folder
from data.layouts.cases import (
    Case,
    Listing,
    check_path,
    describe_folder,
    list_volumes,
    require_unpacked,
    some,
    stem,
    strip_suffix,
)
from data.layouts.class_folders import list_clips
from data.layouts.msd_nnunet import group_channels, warn_of_unlabelled
from data.layouts.names import IMAGE_FOLDERS, IMAGE_WORDS, LABEL_WORDS, guess_patterns, match_images
from data.layouts.patterns import as_pattern, channel_names, group_by_folder, is_pattern, match, walk_volumes
from data.layouts.table import read_table
from data.layouts.unread import warn_of_unread


def find_folders(config: DataConfig) -> Listing:
    """Return cases of images and labels (`data.images`, `data.labels`): two folders, or glob patterns below the root.

    In folders, names match without the file ending and one word that distinguishes images from labels: `_image`,
    `_img`, `_volume`, `_scan`, `_orig`; `_label`, `_lbl`, `_seg`, `_segmentation`, `_mask`, `_gt`; at the end, or in
    front (`img0001` and `label0001`). Beside imagesTr, the cases of imagesTs are the split `test`. Of patterns, what
    their wildcards stand for matches; several for the images are a channel each. Without labels all cases are
    unlabelled. Raises ValueError for names that match twice, and where none matches.
    """
    root, chosen = config.root, (config.images,) if isinstance(config.images, str) else config.images
    if len(chosen) > 1 or is_pattern(chosen[0]) or is_pattern(config.labels):
        return _find_by_patterns(root, chosen, config.labels)
    if holds_slices(root / config.labels):
        raise ValueError(
            f"{root / config.labels}: DICOM files; convert SEG with segimage2itkimage, RTSTRUCT with dcmrtstruct2nii"
        )
    images, labels = _image_folder(root, chosen[0]), _by_name(root / config.labels, LABEL_WORDS)
    if labels and not set(images) & set(labels):
        raise ValueError(
            f"no image of {root / chosen[0]} ({some(p.name for p in images.values())}) has the name of a label of "
            f"{root / config.labels} ({some(p.name for p in labels.values())}); rename them, or list them in a CSV"
        )
    warn_of_unlabelled(root / chosen[0], images, root / config.labels, labels)
    cases = [Case(name, (path,), labels.get(name)) for name, path in images.items()]
    if chosen[0] == "imagesTr":
        tests, labels = _by_name(root / "imagesTs", IMAGE_WORDS), _by_name(root / "labelsTs", LABEL_WORDS)
        cases += [Case(name, (path,), labels.get(name), "test") for name, path in tests.items()]
    return Listing(tuple(cases))


def _image_folder(root: Path, name: str) -> dict[str, Path]:
    """Return the volumes of the image folder. Raises ValueError where it is not there, or holds none."""
    folder = root / name
    if not folder.is_dir():
        guess = guess_patterns(root)
        hint = f"; by their names, set {guess.overrides}" if guess else ""
        raise ValueError(f"data.images={name!r}: no such folder in {root}; found {describe_folder(root)}{hint}")
    if holds_slices(folder):
        raise ValueError(f"{folder}: DICOM slices; move those of each case to a folder of their own")
    if not (images := _by_name(folder, IMAGE_WORDS)):
        raise ValueError(f"{folder}: no volumes; found {describe_folder(folder)}")
    return images


def _find_by_patterns(root: Path, chosen: Sequence[str], label_pattern: str) -> Listing:
    """Return the cases whose files fit patterns; what is named as a label is an image only where a pattern says so."""
    volumes = walk_volumes(root)
    patterns, label_pattern = [as_pattern(root, pattern) for pattern in chosen], as_pattern(root, label_pattern)
    labels = match(root, label_pattern, volumes)
    cases = match_images(root, patterns, volumes, labels.values())
    for key, value, missing in (("images", some(patterns), not cases), ("labels", label_pattern, not labels)):
        if missing and is_pattern(value):
            guess = guess_patterns(root)
            hint = f"by their names, set {guess.overrides}" if guess else "patterns are relative to data.root"
            raise ValueError(f"data.{key}={value}: no volume in {root} fits; found {describe_folder(root)}; {hint}")
    if labels and not cases.keys() & labels.keys():
        raise ValueError(
            f"{root}: data.images={some(patterns)} finds the cases {some(cases)}, data.labels={label_pattern} finds "
            f"{some(labels)}, and none is the same; correct the patterns, or list the files in a CSV"
        )
    warn_of_unlabelled(root, cases, root / label_pattern, labels)
    groups = group_by_folder(root, {name: files[0] for name, files in cases.items()})
    found = [Case(name, files, labels.get(name), group=groups.get(name)) for name, files in cases.items()]
    return Listing(tuple(found), channel_names=channel_names(patterns))


def find_images(
    folder: Path, clips: bool = False, grouped: bool = True, images: str | Sequence[str] = ()
) -> tuple[Case, ...]:
    """Return unlabelled cases: each volume or clip right in a folder, or one file, or one folder of slices or frames.

    With `grouped`, volumes named case_0000, case_0001 … are the channels of one case, and other volumes are chosen by
    the patterns `images`, where they fit any, or by names that tell images from labels. Raises ValueError where there
    are none.
    """
    if folder.is_file() or (is_frame_folder(folder) if clips else holds_slices(folder)):
        require_unpacked(folder)
        return (Case(stem(folder), (folder,)),)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such file or folder")
    files = list_clips(folder) if clips else list_volumes(folder)
    if grouped and not clips:
        chosen = [pattern for pattern in ((images,) if isinstance(images, str) else images) if is_pattern(pattern)]
        if cases := _images_by_patterns(folder, chosen, flat=bool(files)):
            return cases
    if not files:
        require_unpacked(folder)
        inner = [path for path in sorted(folder.iterdir()) if path.name.lower() in IMAGE_FOLDERS]
        hint = f"; give {some(inner)}" if inner else ""
        raise ValueError(f"{folder}: no {'clips' if clips else 'volumes'}; found {describe_folder(folder)}{hint}")
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
    columns = config.columns.model_copy(update=dict.fromkeys(("label", "split", "fold", "group"), False))
    table = read_table(config.model_copy(update={"root": path, "columns": columns}))
    return tuple(Case(row.id, row.images, interval_s=row.interval_s) for row in table.rows)


def _images_by_patterns(folder: Path, patterns: Sequence[str], flat: bool) -> tuple[Case, ...]:
    """Return the cases that patterns, or else names, tell in a folder; none where they tell nothing."""
    volumes = walk_volumes(folder)
    cases = match_images(folder, patterns, volumes) if patterns else {}
    if not cases and (guess := guess_patterns(folder)) is not None:
        below = guess.labels is None or "/" in guess.labels  # where volumes right in the folder are the images
        cases = {} if flat and below else match_images(folder, guess.images, volumes)
    found = tuple(Case(name, files) for name, files in cases.items())
    if found:
        warn_of_unread(folder, found)
    return found


def find_csv(config: DataConfig) -> Listing:
    """Return cases of a table with image and label files; several label columns hold a file for each region.

    See `data.layouts.table`. Raises ValueError for a row with files for some of the regions.
    """
    table = read_table(config)
    cases = []
    for row in table.rows:
        if any(row.labels) and not all(row.labels):
            missing = table.labels[row.labels.index("")]
            raise ValueError(f"{table.path}: row {row.line} has no {missing}; give a file for each region, or for none")
        for text in (*row.labels, row.train_label):
            check_path(text, f"{table.path}: row {row.line}")
        files = tuple(table.folder / text for text in row.labels if text)
        label = (files[0] if len(files) == 1 else files) if files else None
        train_label = table.folder / row.train_label if row.train_label else None
        cases.append(Case(row.id, row.images, label, row.split, row.group, fold=row.fold, train_label=train_label))
    return Listing(tuple(cases))


def _by_name(folder: Path, words: str) -> dict[str, Path]:
    """Return volumes by the part of their names that images and labels share."""
    named: dict[str, Path] = {}
    for path in list_volumes(folder) if folder.is_dir() else []:
        name = strip_suffix(path.name)
        bare = re.sub(rf"[-_.]({words})$", "", name, flags=re.IGNORECASE)
        if bare == name:
            bare = re.sub(rf"^({words})([-_.]|(?=\d))", "", name, flags=re.IGNORECASE) or name
        if bare in named:
            raise ValueError(f"{folder}: {named[bare].name} and {path.name} are both case {bare!r}; rename one")
        named[bare] = path
    return named
