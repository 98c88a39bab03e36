"""Files that reach the disk itself."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOW_TO_FIX = {
    errno.ENOSPC: "free some space on its disk, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or write to another file system",
}


class CannotWrite(OSError, ValueError):
    """An output cannot be written, whatever the input: no case is at fault."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a full disk, or a file too large for it, as CannotWrite with the file's name; other errors have theirs."""
    try:
        yield
    except OSError as error:
        if error.errno not in _HOW_TO_FIX:
            raise
        raise CannotWrite(f"{path}: cannot be written ({error.strerror}); {_HOW_TO_FIX[error.errno]}") from error


def flush(descriptor: int) -> None:
    """Wait until the open file or folder is on the disk, past the drive's cache where the system supports that."""
    if sys.platform == "darwin":  # where fsync leaves it in that cache
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass  # network and some external volumes have no such call
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the folder's list of names, after a file was made or renamed there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> list[Path]:
    """Make the folder and those above it that are missing, each flushed into its parent; return them, deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        flush_folder(path.parent)
    return missing


def write_flushed(path: Path, content: bytes) -> None:
    """Write the file and flush it."""
    with writing(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        flush(file.fileno())
