"""Which files a listing of cases reads, and which volumes beside them it does not."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from data.layouts.cases import Case
from data.layouts.patterns import walk_volumes

_log = logging.getLogger("mlx_volumes")
SHOWN = 3


def count_files(cases: Sequence[Case]) -> str:
    """Return how many files the cases have: `24 files: 12 images, 12 labels`."""
    images = len({path for case in cases for path in case.images})
    labels = len({path for case in cases for path in case.label_files})
    return f"{images + labels} files: {images} images, {labels} labels"


def warn_of_unread(root: Path, cases: Sequence[Case]) -> None:
    """Warn of the volumes in a folder, and below it, that are of no case, with their number and the first names."""
    read = {Path(os.path.normpath(path)) for case in cases for path in case.files}
    above = {folder for path in read for folder in path.parents}

    def is_read(path: Path) -> bool:  # a folder of DICOM also where it is in one that is read, or a file in it is
        return path in read or (path.is_dir() and (path in above or not read.isdisjoint(path.parents)))

    unread = [path for path in map(Path, map(os.path.normpath, walk_volumes(root))) if not is_read(path)]
    if unread:
        names = ", ".join(path.relative_to(os.path.normpath(root)).as_posix() for path in unread[:SHOWN])
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        _log.warning("%s: not read, as of no case: %d volumes (%s%s)", root, len(unread), names, more)
