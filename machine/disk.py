"""Files that reach the disk itself."""

import fcntl
import os
import sys
from pathlib import Path


def flush(descriptor: int) -> None:
    """Wait until the open file or folder is on the disk, past the drive's own cache too where the system can ask."""
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


def write_flushed(path: Path, content: bytes) -> None:
    """Write the file and flush it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        flush(file.fileno())
