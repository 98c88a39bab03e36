"""The lock of a run's folder: one process at a time trains the run, or works on the sweep.

It is a file `run.lock` that its holder keeps locked by the system, so that the lock ends with the process, however that
came about. Inside stands who holds it. Where the file system knows no locks, what stands inside decides.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from machine import disk
from machine.processes import when_started

_log = logging.getLogger("mlx_volumes")

LOCK_NAME = "run.lock"
_LOOK_EVERY_SECONDS = 0.1
_WRITTEN_WITHIN_SECONDS = 1.0  # a process that has just taken a lock writes its name by then
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)

_held: set[int] = set()


def _leave_to_the_parent() -> None:
    """Close a parent's locks in a child that was forked, which else would hold them on after the parent's end."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    process: int
    started: str | None  # as `when_started` has it: another process may be given the number later
    since: str

    @classmethod
    def this_process(cls) -> Self:
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(socket.gethostname(), os.getpid(), when_started(os.getpid()), now)

    @classmethod
    def read(cls, descriptor: int) -> Self | None:
        """Return whom the lock's file names, None where it names nobody."""
        with suppress(ValueError, TypeError):
            return cls(**json.loads(os.pread(descriptor, 4096, 0)))
        return None

    def may_live(self) -> bool:
        """Return whether it runs, on this host; a process of another one is taken to."""
        return self.host != socket.gethostname() or when_started(self.process) == self.started


@contextmanager
def hold(folder: Path, work: str, patience_seconds: float = 0.0) -> Iterator[int]:
    """Hold the folder's lock within; give its descriptor, for a child to hold it too (`pass_fds`).

    work: what the holder does, for the message, such as "trains this run". patience_seconds: how long to wait for
    children of a holder that is gone.

    Raises ValueError that says who holds it, or that the folder cannot be written. A folder that is made here and
    stays empty is removed.
    """
    made: list[Path] = []
    try:
        try:
            made = disk.make_folder(folder)
            descriptor = _acquire(folder, work, patience_seconds)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be written ({error.strerror}); set run.dir to a writable folder"
            ) from None
        _held.add(descriptor)
        try:
            content = json.dumps(asdict(Holder.this_process())).encode()
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            yield descriptor
        finally:
            _release(folder / LOCK_NAME, descriptor)
    finally:
        for path in made:
            with suppress(OSError):  # not empty
                path.rmdir()


def _acquire(folder: Path, work: str, patience_seconds: float) -> int:
    """Return the descriptor of the lock's file, locked."""
    path, give_up = folder / LOCK_NAME, time.monotonic() + max(patience_seconds, _WRITTEN_WITHIN_SECONDS)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        is_locked, holder = _lock(descriptor), Holder.read(descriptor)
        lives = holder is not None and holder.may_live()
        if (is_locked or (is_locked is None and not lives)) and _is_the_file(path, descriptor):
            if is_locked is None:
                _log.warning("%s: this file system has no locks; host, process and start time in the file decide", path)
            return descriptor
        os.close(descriptor)
        if is_locked is not True and (lives or time.monotonic() > give_up):
            raise ValueError(_describe(folder, work, holder, is_locked is None))
        time.sleep(_LOOK_EVERY_SECONDS)


def _describe(folder: Path, work: str, holder: Holder | None, by_contents: bool) -> str:
    """Who holds the lock, and what to do."""
    if holder is None:
        return f"{folder}: another process {work}; wait for it, or end it"
    text = f"{folder}: process {holder.process} on {holder.host} {work} since {holder.since}; wait for it, or end it"
    gone = f"; if it is gone, remove {folder / LOCK_NAME}"
    return text + (gone if by_contents and holder.host != socket.gethostname() else "")


def _lock(descriptor: int) -> bool | None:
    """Return whether the file could be locked; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_the_file(path: Path, descriptor: int) -> bool:
    """Return whether the name still leads to the open file: its last holder removes it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _release(path: Path, descriptor: int) -> None:
    if descriptor not in _held:
        return  # in a child that was forked
    _held.remove(descriptor)
    if _is_the_file(path, descriptor):
        path.unlink()  # held still: who opened it before finds, by `_is_the_file`, that it is gone
    os.close(descriptor)
