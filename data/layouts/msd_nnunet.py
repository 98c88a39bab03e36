"""Folders with a dataset.json: Medical Segmentation Decathlon and nnU-Net raw."""

import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.regions import check_regions
from configs.schema.data import DataConfig
from data.files.gzip import read_text
from data.layouts.cases import Case, Listing, check_path, list_volumes, shown, some, strip_suffix

_log = logging.getLogger("mlx_volumes")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find_msd(config: DataConfig) -> Listing:
    """Return cases of a Decathlon folder, as its dataset.json lists them.

    `training` holds {"image", "label"} pairs, `test` images without labels, `labels` {"0": name, ...} and
    `modality` {"0": name, ...}. Paths that leave the root are refused.
    """
    facts, path = read_json(config.root), config.root / "dataset.json"
    if "training" not in facts:
        hint = "nnU-Net's: set data.source=nnunet" if "channel_names" in facts else f"it has {some(facts)}"
        raise ValueError(f"{path}: no 'training' list, which data.source=msd needs; the file looks like {hint}")
    cases = []
    for key, split in (("training", None), ("test", "test")):
        entries = facts.get(key, [])
        if not isinstance(entries, list):
            raise ValueError(f"{path}: {key!r} must be a list of cases, got {type(entries).__name__}")
        for number, entry in enumerate(entries):
            entry = {"image": entry} if isinstance(entry, str) else entry
            where = f"{path}: {key}[{number}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                raise ValueError(f'{where} must be {{"image": path, "label": path}}, got {shown(entry)}')
            image = _inside(config.root, entry["image"], where)
            label = _inside(config.root, entry["label"], where) if entry.get("label") else None
            cases.append(Case(strip_suffix(image.name), (image,), label, split))
    labels, names = facts.get("labels"), None
    if "labels" in facts and not _has_regions(labels):
        names = _numbered(labels, f"{path}: 'labels'")
    channels = _numbered(facts["modality"], f"{path}: 'modality'") if "modality" in facts else None
    return Listing(tuple(cases), names, channels)


def find_nnunet(config: DataConfig) -> Listing:
    """Return cases of an nnU-Net raw folder: imagesTr/case_0000.nii.gz, one file a channel, labelsTr/case.nii.gz.

    imagesTs (with labelsTs, where it exists) becomes the split `test`. dataset.json, version 2 or 1, gives
    names and the file ending; without it, and without labelsTr, the images alone are listed. Raises
    ValueError for missing channels.
    """
    root = config.root
    facts = read_json(root) if (root / "dataset.json").exists() else {}
    path, ending = root / "dataset.json", facts.get("file_ending")
    if ending is not None and not isinstance(ending, str):
        raise ValueError(f"{path}: 'file_ending' must be text such as \".nii.gz\", got {shown(ending)}")
    if not (root / "imagesTr").is_dir() and not (root / "imagesTs").is_dir():
        raise ValueError(f"{root}: neither imagesTr nor imagesTs, which data.source=nnunet needs")
    names = facts.get("channel_names", facts.get("modality"))
    channels = _numbered(names, f"{path}: 'channel_names'") if names is not None else None
    cases: list[Case] = []
    for part, split in (("Tr", None), ("Ts", "test")):
        labels = _labels(root / f"labels{part}", ending)
        images = group_channels(root / f"images{part}", ending, channels)
        if not images and (root / f"images{part}").is_dir() and list_volumes(root / f"images{part}"):
            found = some(volume.name for volume in list_volumes(root / f"images{part}"))
            hint = "; set data.source=msd" if "training" in facts else ""
            raise ValueError(f"{root}/images{part}: expected names like case_0000.nii.gz, found {found}{hint}")
        if labels:
            warn_of_unlabelled(root / f"images{part}", images, root / f"labels{part}", labels)
        cases += [Case(name, files, labels.get(name), split) for name, files in images.items()]
    class_names = _classes(facts["labels"], f"{path}: 'labels'") if "labels" in facts else None
    return Listing(tuple(cases), class_names, channels)


def group_channels(
    folder: Path, ending: str | None = None, channel_names: tuple[str, ...] | None = None
) -> dict[str, tuple[Path, ...]]:
    """Return files case_0000, case_0001 ... of a folder, by case; raises ValueError for gaps. Others are left out."""
    found: dict[str, dict[int, Path]] = {}
    for path in list_volumes(folder) if folder.is_dir() else []:
        match = CHANNEL.fullmatch(strip_suffix(path.name))
        if match is None or (ending is not None and not path.name.endswith(ending)):
            continue
        channels = found.setdefault(match["case"], {})
        number = int(match["channel"])
        if number in channels:
            raise ValueError(f"{folder}: {channels[number].name} and {path.name} are the same channel")
        channels[number] = path
    expected = len(channel_names) if channel_names else max((len(c) for c in found.values()), default=0)
    gaps = []
    for case, channels in found.items():
        gaps += [f"{case}_{number:04d}" for number in range(max(expected, max(channels) + 1)) if number not in channels]
        if max(channels) >= expected and channel_names:
            raise ValueError(
                f"{folder}: {channels[max(channels)].name} is channel {max(channels)}, "
                f"but dataset.json names {expected} ({some(channel_names)})"
            )
    if gaps:
        raise ValueError(f"{folder}: missing channels: {some(gaps)}; every case needs all {expected} of them")
    return {case: tuple(channels[n] for n in sorted(channels)) for case, channels in found.items()}


def _labels(folder: Path, ending: str | None) -> dict[str, Path]:
    paths = list_volumes(folder) if folder.is_dir() else []
    return {strip_suffix(path.name): path for path in paths if ending is None or path.name.endswith(ending)}


def warn_of_unlabelled(images: Path, named_images: Iterable[str], labels: Path, named_labels: Iterable[str]) -> None:
    """Warn of images without a label, by their names; of none at all in one line."""
    known_images, known_labels = set(named_images), set(named_labels)
    if known_images and not known_labels:
        _log.warning("%s: no labels, all %d cases are unlabelled", labels, len(known_images))
    elif missing := sorted(known_images - known_labels):
        _log.warning("%s: no label for %s", images, some(missing))


def read_json(root: Path) -> dict[str, Any]:
    """Return the object in a folder's dataset.json. Raises ValueError where there is none."""
    path = root / "dataset.json"
    text = read_text(path)
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); write it again") from None
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON (lists or objects nested too deeply); write it again") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(facts).__name__}")
    return facts


def _inside(root: Path, text: Any, where: str) -> Path:
    """Return a path of dataset.json below the root; links inside the root are the user's own and are followed."""
    if not isinstance(text, str):
        raise ValueError(f"{where} must be a path, got {shown(text)}")
    check_path(text, where)
    path = Path(os.path.normpath(root / text))
    if Path(text).is_absolute() or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise ValueError(f"{where}: {text!r} leaves the data root {root}; only paths below it are read")
    return path


def _numbered(names: Any, where: str) -> tuple[str, ...]:
    """Return the names of {"0": name, "1": name, ...} in order."""
    try:
        numbers = {int(key): name for key, name in names.items()}
    except (AttributeError, ValueError):
        raise ValueError(f'{where} must be {{"0": name, "1": name, ...}}, got {shown(names)}') from None
    if wrong := [name for name in numbers.values() if not isinstance(name, str)]:
        raise ValueError(f"{where} must be names, got {shown(wrong[0])}; put it in quotes")
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{where} must be numbered 0, 1, 2 … without gaps, got {some(sorted(numbers))}")
    return tuple(numbers[number] for number in range(len(numbers)))


def declared_regions(root: Path) -> dict[str, Any]:
    """Return nnU-Net's regions of a dataset.json as keys of the `data` section; {} where it declares none.

    `labels` hold a list of label values for a region, and `regions_class_order` the value that each is written as.
    """
    facts, path = read_json(root), root / "dataset.json"
    labels = facts.get("labels")
    if labels is None or not _has_regions(labels):
        return {}
    regions = {
        name: value if isinstance(value, list) else [value]
        for name, value in labels.items()
        if name not in ("background", "ignore")
    }
    order = facts.get("regions_class_order")
    if not isinstance(order, list) or not all(map(_is_number, order)):
        raise ValueError(f"{path}: 'regions_class_order' must list a label value for each region, got {shown(order)}")
    if wrong := [name for name, values in regions.items() if not all(map(_is_number, values))]:
        raise ValueError(f"{path}: 'labels' of {wrong[0]} must be numbers, got {shown(regions[wrong[0]])}")
    try:
        check_regions(regions, order)
    except ValueError as error:
        raise ValueError(f"{path}: {error} ('labels' and 'regions_class_order')") from None
    return {"regions": regions, "region_values": order}


def _has_regions(labels: Any) -> bool:
    """Whether names stand for label values, and one of them for several; numbers stand for names."""
    named = isinstance(labels, dict) and not all(name.isdecimal() for name in labels)
    return named and any(isinstance(value, list) for value in labels.values())


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _classes(labels: Any, where: str) -> tuple[str, ...] | None:
    """Return class names of nnU-Net: version 2's {name: value} or version 1's {"0": name}; `ignore` is no class.

    None where they are regions: see `declared_regions`.
    """
    if not isinstance(labels, dict):
        raise ValueError(f"{where} must be an object {{name: value}}, got {shown(labels)}")
    if _has_regions(labels):
        return None
    if wrong := [value for value in labels.values() if isinstance(value, bool)]:
        raise ValueError(f"{where} must be {{name: number}}, got {shown(wrong[0])}; number the classes 0, 1, 2 …")
    if all(isinstance(value, int) for value in labels.values()):
        labels = {str(value): name for name, value in labels.items() if name != "ignore"}
    return _numbered(labels, where)
