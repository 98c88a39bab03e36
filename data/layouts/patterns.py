"""Volumes chosen by glob patterns such as `*_img.nii.gz`, and the name of a case that each stands for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.files.formats.dicom.folder import holds_slices
from data.layouts.cases import list_volumes, some, strip_suffix

MAX_DEPTH = 8  # folders below each other
_WILD = re.compile(r"\*\*/|\*|\?|\[[^]]*\]")
# Entities of BIDS that a file made of another one may have beside those of its source.
_DERIVED = ("space", "desc", "label", "res", "den", "hemi", "atlas", "seg")


def is_pattern(text: str) -> bool:
    """Return whether a text is a glob pattern rather than a folder's name."""
    return _WILD.search(text) is not None


def walk_volumes(root: Path, depth: int = MAX_DEPTH) -> list[Path]:
    """Return the volumes in a folder and below it, each folder's sorted by name; hidden ones are left out.

    A folder of DICOM is one volume, but where other volumes lie in it: then the folders of slices within are. Links are
    followed, but for those to a folder above.
    """
    volumes, found = set(list_volumes(root)), []
    above = (root.resolve(), *root.resolve().parents)
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        inside = path.is_dir() and not (path.is_symlink() and path.resolve() in above)
        inner = walk_volumes(path, depth - 1) if inside and depth else []
        mixed = any(not volume.is_dir() for volume in inner)
        if path in volumes and (not mixed or holds_slices(path)):
            found.append(path)
        if path not in volumes or mixed:
            found += inner
    return found


def match(root: Path, pattern: str, volumes: Iterable[Path], without: Iterable[Path] = ()) -> dict[str, Path]:
    """Return those of the `volumes` below `root` that a pattern relative to it names, by case, but those of `without`.

    A case's name is what the wildcards stand for; `**/` is any folders, or none. Of names as BIDS has them it is the
    entities, without those that tell a derived file from its source. Raises ValueError where two are one case.
    """
    found: dict[str, Path] = {}
    expression, left_out = re.compile(_expression(pattern)), set(without)
    for path in volumes:
        part = path.relative_to(root).as_posix()
        fitting = expression.fullmatch(part)
        if fitting is None or path in left_out:
            continue
        name = _entities(strip_suffix(path.name)) or _joined(fitting.groups())
        if name in found:
            first = found[name].relative_to(root)
            raise ValueError(f"{root}: {first} and {part} are both case {name!r} of {pattern!r}; narrow the pattern")
        found[name] = path
    return found


def match_channels(
    root: Path, patterns: Sequence[str], volumes: Sequence[Path], without: Iterable[Path] = ()
) -> dict[str, tuple[Path, ...]]:
    """Return the volumes of each case, in the order of the patterns, one a channel. Raises ValueError for gaps."""
    left_out = list(without)
    channels = [match(root, pattern, volumes, left_out) for pattern in patterns]
    names = list(dict.fromkeys(name for channel in channels for name in channel))
    found = list(zip(patterns, channels, strict=True))
    gaps = [f"{name} has no {pattern}" for name in names for pattern, channel in found if name not in channel]
    if gaps and any(channels):
        raise ValueError(
            f"{root}: missing channels: {some(gaps)}; add the files, or name fewer channels in data.images"
        )
    return {name: tuple(channel[name] for channel in channels) for name in names}


def as_pattern(root: Path, text: str) -> str:
    """Return a pattern; of a folder in `root` the one of its files."""
    return f"{text.rstrip('/')}/*" if (root / text).is_dir() else text


def channel_names(patterns: Sequence[str]) -> tuple[str, ...] | None:
    """Return what the names of several patterns' files differ in: t1 of `*/*_t1.nii.gz`. None for a single pattern."""
    names = [strip_suffix(pattern.split("/")[-1]).strip("*_-.") for pattern in patterns]
    return tuple(names) if len(patterns) > 1 and all(names) and len(set(names)) == len(names) else None


def group_by_folder(root: Path, files: Mapping[str, Path]) -> dict[str, str]:
    """Return the group of each case, by its folder: a patient's scans stay together. Empty where each has its own.

    A patient is the folder right below `root`; where there are few of them, with many cases each (sites, say), it is
    the folder that the file lies in.
    """
    folders = {name: path.relative_to(root).parts[:-1] for name, path in files.items()}
    tops = {parts[0] for parts in folders.values() if parts}
    depth = 1 if len(tops) ** 2 >= len(files) else None
    groups = {name: "/".join(parts[:depth]) for name, parts in folders.items() if parts}
    return groups if 1 < len(set(groups.values())) < len(groups) else {}


def _expression(pattern: str) -> str:
    """Return the regular expression of a glob pattern, with a group for each wildcard."""
    forms = {"**/": r"(?:(.*)/)?", "*": r"([^/]*)", "?": r"([^/])"}
    text, end = "", 0
    for wild in _WILD.finditer(pattern):
        text += re.escape(pattern[end : wild.start()]) + forms.get(wild[0], f"({wild[0].replace('[!', '[^')})")
        end = wild.end()
    return text + re.escape(pattern[end:])


def _joined(parts: Iterable[str | None]) -> str:
    """Return what wildcards stand for as one name: case01/case01_t1 is case01."""
    names = dict.fromkeys(name for part in parts if part for name in part.split("/"))
    return "_".join(name.strip("_-. ") or name for name in names) or "case"


def _entities(name: str) -> str | None:
    """Return the entities of a BIDS name, sub-01_ses-2 of sub-01_ses-2_space-T1w_dseg; None for other names."""
    *entities, _ = name.split("_")
    keys = [entity.partition("-")[0] for entity in entities]
    if not keys or keys[0] != "sub" or not all("-" in entity for entity in entities):
        return None
    return "_".join(entity for key, entity in zip(keys, entities, strict=True) if key not in _DERIVED)
