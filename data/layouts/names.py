"""Which volumes of a folder are images and which are labels, told from their names, as patterns for a config."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.layouts.cases import strip_suffix
from data.layouts.patterns import match, match_channels, walk_volumes

IMAGE_WORDS = "image|images|img|volume|vol|scan|orig"
LABEL_WORDS = "seg|segmentation|dseg|label|labels|lbl|gt|annotation|roi|mask"  # the likeliest first
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr", "imagests", "volumes", "scans")
LABEL_FOLDERS = (
    "labels", "label", "labelstr", "labelsts", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "gt",
)  # fmt: skip
MOST_KINDS = 5  # of labels beside each other, as of tumour and vessels in files of their own
_AT_END = re.compile(rf"(?:|.*[-_.])({LABEL_WORDS})", re.IGNORECASE)
_IN_FRONT = re.compile(rf"({IMAGE_WORDS}|{LABEL_WORDS})(?=[-_.\d*])", re.IGNORECASE)


class Guess(NamedTuple):
    """Glob patterns relative to a folder: of its images, one a channel, and of its labels, None without any."""

    images: tuple[str, ...]
    labels: str | None

    @property
    def overrides(self) -> str:
        """The config keys that read it, quoted for a shell."""
        images = self.images[0] if len(self.images) == 1 else f"[{', '.join(self.images)}]"
        labels = "" if self.labels is None else f" 'data.labels={self.labels}'"
        return f"data.source=folders 'data.images={images}'{labels}"


def label_word(path: str) -> str | None:
    """Return the word by which a path or pattern is that of a label: seg of a_seg.nii.gz, labels of labels/a.nii.gz."""
    *folders, name = path.lower().split("/")
    bare = strip_suffix(name)
    front, end = _IN_FRONT.match(bare), _AT_END.fullmatch(bare)
    words = [end[1]] if end else [front[1]] if front and front[1] in LABEL_WORDS.split("|") else []
    return next(iter([*words, *(folder for folder in folders if folder in LABEL_FOLDERS)]), None)


def guess_patterns(root: Path) -> Guess | None:
    """Return which volumes below `root` are images and which labels; None where names do not tell.

    Known are a folder a case (`case01/t1.nii.gz`, `case01/seg.nii.gz`), perhaps with folders between, BIDS, and one
    flat folder (`a_img.nii.gz`, `a_seg.nii.gz`). A pattern that more than half of the labels have an image of is a
    channel. Without labels, only a folder a case is told.
    """
    volumes = walk_volumes(root) if root.is_dir() else []
    paths = {path: path.relative_to(root).as_posix() for path in volumes}
    tops = {part.split("/")[0] for part in paths.values() if "/" in part}
    if any(top.lower() in (*IMAGE_FOLDERS, *LABEL_FOLDERS) for top in tops):
        return None
    bids = any(path.name.startswith("sub-") for path in volumes) and any(top.startswith("sub-") for top in tops)
    found: dict[str, list[Path]] = defaultdict(list)
    for path, part in paths.items():
        for pattern in dict.fromkeys(_bids_patterns(part) if bids else _patterns(part)):
            found[pattern].append(path)
    labels = [path for path, part in paths.items() if label_word(part)]
    images = {pattern: len(files) for pattern, files in found.items() if not label_word(pattern)}
    if not labels:
        channels = _channels(root, images, volumes, {top: Path() for top in tops}, []) if tops else []
        return Guess(tuple(channels[:1] if bids else channels), None) if channels else None
    counts = {pattern: len(files) for pattern, files in found.items() if label_word(pattern)}
    least = max(min(2, len(labels)), len(labels) / MOST_KINDS)
    usual = [pattern for pattern, count in counts.items() if count >= least]
    for pattern in sorted(usual, key=lambda pattern: _rank(pattern, counts[pattern])):
        known = _try_match(root, pattern, volumes)
        if channels := _channels(root, images, volumes, known, labels):
            return Guess(tuple(channels[:1] if bids else channels), pattern)
    return None


def match_images(
    root: Path, patterns: Sequence[str], volumes: Sequence[Path], labels: Iterable[Path] = ()
) -> dict[str, tuple[Path, ...]]:
    """Return the images of each case; a label, by `labels` or its name, is none but where a pattern names labels."""
    named = [path for path in volumes if label_word(path.relative_to(root).as_posix())]
    without = [] if any(map(label_word, patterns)) else named
    return match_channels(root, patterns, volumes, [*labels, *without])


def _channels(
    root: Path, patterns: dict[str, int], volumes: list[Path], known: dict[str, Path], labels: list[Path]
) -> list[str]:
    """Return the patterns, of so many files, that give more than half of the `known` cases an image."""
    fitting = {}
    for pattern, num_files in patterns.items():
        found = _try_match(root, pattern, volumes, labels) if 2 * num_files > len(known) else {}
        if 2 * len(found.keys() & known.keys()) > len(known):
            fitting[pattern] = set(found.values())
    chosen: dict[str, set[Path]] = {}
    for pattern in sorted(fitting, key=lambda pattern: (len(fitting[pattern]), "_T1w" not in pattern, pattern)):
        if not any(fitting[pattern] & taken for taken in chosen.values()):
            chosen[pattern] = fitting[pattern]
    return sorted(chosen, key=lambda pattern: ("_T1w" not in pattern, pattern))


def _try_match(root: Path, pattern: str, volumes: list[Path], without: Sequence[Path] = ()) -> dict[str, Path]:
    try:
        return match(root, pattern, volumes, without)
    except ValueError:  # two files a case
        return {}


def _rank(pattern: str, num_files: int) -> tuple[int, int, int, int, str]:
    """Return what sorts patterns of labels: those of most files first, then by their words, then the plainest."""
    words = LABEL_WORDS.split("|")
    word = label_word(pattern) or ""
    return -num_files, words.index(word) if word in words else len(words), pattern.count("*"), len(pattern), pattern


def _patterns(part: str) -> Iterator[str]:
    """Yield the patterns that a path's name suggests: by its own name, its last or first word, its ending alone."""
    *folders, name = part.split("/")
    bare = strip_suffix(name)
    ending, words = name[len(bare) :], re.split(r"([-_.])", bare)
    for level in range(min(1, len(folders)), len(folders) + 1):
        below = "".join(f"{folder}/" for folder in [*["*"] * level, *folders[level:]])
        if folders:
            own = rf"(?<![^\W_]){re.escape(folders[level - 1])}(?![^\W_])"  # a word, or several, of the name
            yield below + re.sub(own, "*", name)
        if len(words) > 1:
            yield f"{below}*{words[-2]}{words[-1]}{ending}"
        if front := _IN_FRONT.match(bare):
            yield f"{below}{front[1]}*{ending}"
        yield f"{below}*{ending}"


def _bids_patterns(part: str) -> Iterator[str]:
    """Yield the patterns of a BIDS file: its suffix below its top folder, of a label perhaps with the entity before."""
    *folders, name = part.split("/")
    bare = strip_suffix(name)
    ending, words = name[len(bare) :], bare.split("_")
    if label_word(part):
        top = "sub-*" if part.startswith("sub-") else folders[0] if folders else ""
        for count in (1, 2):
            yield "/".join(filter(None, [top, f"**/*_{'_'.join(words[-count:])}{ending}"]))
    elif folders and part.startswith("sub-"):
        inner = "**/anat/" if folders[-1] == "anat" else "**/"
        yield f"sub-*/{inner}*_{words[-1]}{ending}"
