"""A case: the files of one subject's scan, by name; nothing is opened here."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.files.formats.nifti import headers_of
from data.files.formats.registry import find_format, format_of, suffixes

ARCHIVES = dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "tar xf") | {".zip": "unzip"}
SHOWN = 5  # names listed in a message


Label = Path | tuple[Path, ...] | int | tuple[int, ...] | None


@dataclass(frozen=True)
class Case:
    """One scan or clip. `images` are one file a channel, or one file that may hold several channels.

    `label` is the file of a label volume, or a file for each region; or the number of the case's class; or, for
    classes that may coincide, a 0 or 1 for each; None without a label. `split` ("train", "val", "test"), `group` and
    `fold` are what the source says about the case, if anything. A case that is a row of an array in an `.npz` has the
    array's name and the row in `member`. `train_label` is the label to train on where `label` is the one to score
    against alone. A segment of a clip is the interval of seconds (from, up to) after its first frame. `id` is unique
    in a listing and safe as a file name.
    """

    id: str
    images: tuple[Path, ...]
    label: Label = None
    split: str | None = None
    group: str | None = None
    member: tuple[str, int] | None = None
    fold: str | None = None
    train_label: Label = None
    interval_s: tuple[float, float] | None = None

    @property
    def label_file(self) -> Path | None:
        """The first of its `label_files`, None without any."""
        return next(iter(self.label_files), None)

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The file of its label volume, or those of its regions; none where its label is none, or no volume."""
        labels = self.label if isinstance(self.label, tuple) else (self.label,)
        return tuple(label for label in labels if isinstance(label, Path))

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers of the classes that it is of; none where its label is a volume, or unknown."""
        if isinstance(self.label, tuple) and not self.label_files:
            return tuple(number for number, there in enumerate(self.label) if there)
        return (self.label,) if isinstance(self.label, int) else ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its images, then its label volumes, if any: those that scores are computed against come first."""
        train = (self.train_label,) if isinstance(self.train_label, Path) else ()
        return (*self.images, *self.label_files, *train)

    def to_train_on(self) -> "Case":
        """Return the case as training sees it: its label is the one to train on."""
        return self if self.train_label is None else replace(self, label=self.train_label, train_label=None)


@dataclass(frozen=True)
class Listing:
    """The cases of a source, sorted by id, with its names of classes and channels.

    `class_names` are by label value, or by class number; None where the source has none. `labels` is the kind
    of the cases' labels: label volumes, also of regions, a class, or several classes, which may coincide.
    """

    cases: tuple[Case, ...]
    class_names: tuple[str, ...] | None = None
    channel_names: tuple[str, ...] | None = None
    labels: Literal["volume", "regions", "class", "classes"] = "volume"

    @property
    def multi_label(self) -> bool:
        """Whether a case may be of several classes, or of none."""
        return self.labels == "classes"


def strip_suffix(name: str) -> str:
    """Return a file's name without .nii.gz and the like."""
    ends = [suffix for suffix in suffixes() if name.lower().endswith(suffix)]
    return name[: -max(map(len, ends))] if ends else name


def stem(path: Path) -> str:
    """Return the name of a volume or of any other file, without its ending; of a folder its name."""
    name = strip_suffix(path.name)
    if path.is_dir():
        return name
    return path.stem if name == path.name else name


def list_volumes(folder: Path) -> list[Path]:
    """Return what a folder holds under a volume's name, sorted; of .img with a header only that. No hidden ones.

    A folder, a pipe or a link to nowhere of such a name is among them: reading it says what it is. So is a folder
    with DICOM slices in it, or below it, of any name; slices right in `folder` are not, as they are one volume.
    """
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        known = find_format(path) if path.is_dir() else format_of(path)
        if name.startswith(".") or known is None or (known.is_at is not None and not path.is_dir()):
            continue
        if name.endswith((".img", ".img.gz")) and any(header.exists() for header in headers_of(path)):
            continue
        found.append(path)
    return found


def safe_id(text: str) -> str:
    """Return a case id that can be a file's name: anything but letters, digits, `_`, `-` and `.` becomes `_`."""
    return re.sub(r"[^\w.-]+", "_", text.strip()).lstrip(".-") or "_"


def with_safe_ids(cases: Iterable[Case], where: Path) -> tuple[Case, ...]:
    """Return the cases sorted by their safe ids; raises ValueError where two would share one."""
    taken: dict[str, Case] = {}
    for case in cases:
        case = replace(case, id=safe_id(case.id))
        key = case.id.casefold()  # on some file systems A.nii and a.nii are one file
        if key in taken:
            first, second = taken[key].images[0], case.images[0]
            raise ValueError(
                f"{where}: two cases share the id {case.id!r} ({first} and {second}); give each its own name"
            )
        taken[key] = case
    return tuple(sorted(taken.values(), key=lambda case: case.id))


def check_path(text: str, where: str) -> None:
    """Raise ValueError for text that can be no path: with a zero byte or half a character, or too long."""
    try:
        names = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        names = [b"\0"]
    if any(b"\0" in name for name in names):
        raise ValueError(f"{where}: {shown(text)} is no path; correct it")
    if len(text) > 4000 or any(len(name) > 255 for name in names):
        raise ValueError(f"{where}: {shown(text)} is too long for a path; correct it")


def shown(value: object) -> str:
    """Return a JSON value as it stands in a message, however long it is."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]} …"


def some(names: Iterable[object]) -> str:
    """Return the first few names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def require_unpacked(path: Path) -> None:
    """Raise ValueError for an archive as it was downloaded, or a folder with nothing else in it: say how to unpack."""
    inside = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else [path]
    for file in inside if len(inside) == 1 else []:
        command = next((how for ending, how in ARCHIVES.items() if file.name.lower().endswith(ending)), None)
        if command is not None and file.is_file():
            raise ValueError(
                f"{file}: a packed archive; unpack it ({command} {file.name}), and give the folder it makes"
            )


def only_file(root: Path, ending: str) -> Path:
    """Return the file that `data.root` is, or the only one with that ending in the folder. Raises ValueError."""
    if not root.is_dir():
        return root
    files = sorted(root.glob(f"*{ending}"))
    if len(files) != 1:
        found = some(path.name for path in files) if files else describe_folder(root)
        raise ValueError(f"data.root={root}: expected exactly one {ending} in it, found {found}; name the file itself")
    return files[0]


def describe_folder(folder: Path) -> str:
    """Return what lies in a folder, in a few words, for messages."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    names = [path.name + "/" if path.is_dir() else path.name for path in entries]
    return some(names) if names else "nothing"
