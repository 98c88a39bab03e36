"""Prepared cases on disk: written once, read as memory maps by any number of processes.

An entry is a folder `<key>` of `.npy` files and `facts.json`. It is written under a temporary name, flushed
and renamed, so an entry that exists is whole. A process notes the keys that it uses in a lease, a file that
it keeps locked; the least recently used entries that no lease names go when the size limit is passed.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import threading
import uuid
import weakref
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from data.files.errors import readable_size
from data.files.formats.registry import parts_of
from machine import disk

_log = logging.getLogger("mlx_volumes")

_FORMAT = 3  # part of every key: raise it when what is stored changes, or how cases are prepared
_SCAN_EVERY = 64  # puts between looks at what other processes stored


@dataclass(frozen=True)
class Entry:
    """What was stored: arrays by name, read-only memory maps unless loaded into memory, and JSON facts."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def cache_key(paths: Iterable[Path], parameters: Mapping[str, Any]) -> str:
    """Return a hash of the files' paths, sizes and modification times and of the JSON-able parameters.

    Raises FileNotFoundError.
    """
    files = []
    for path in parts_of(paths):
        facts = path.stat()
        files.append([str(path.resolve()), facts.st_size, facts.st_mtime_ns])
    text = json.dumps({"format": _FORMAT, "files": files, "parameters": dict(parameters)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Cache:
    """Entries under `folder`, `limit_bytes` in all. Safe under threads and concurrent processes.

    What this process, or another that is alive, has stored or read is never evicted: when that alone passes
    the limit, one warning is logged.
    """

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._token = ""  # of the lease, once there is one
        self._lease = -1
        self._size = 0.0
        self._puts = 0
        self._warned = False

    def get(self, key: str, in_memory: bool = False) -> Entry | None:
        """Return the entry, or None where there is none. A damaged one is removed, with a warning."""
        folder = self.folder / key
        if not (folder / "facts.json").exists():
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written can still be read
            self._hold(key)
        try:
            stored = json.loads((folder / "facts.json").read_text())
            if stored["checksum"] != _checksum(stored["arrays"], stored["facts"]):
                raise ValueError("facts.json was changed")
            arrays = {}
            for name, (shape, dtype) in stored["arrays"].items():
                arrays[name] = _read_array(folder / f"{name}.npy", tuple(shape), np.dtype(dtype), in_memory)
            return Entry(arrays, stored["facts"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            if folder.exists():  # else another process has just evicted it
                _log.warning("data.cache.folder: rebuilding the damaged entry %s (%s)", folder, error)
                self._remove(key)
            return None

    def put(self, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Store an entry; where another process was faster, its entry stays.

        Raises ValueError, with nothing left behind, when the disk is full or the folder cannot be written.
        """
        needed = sum(array.nbytes for array in arrays.values())
        temporary: Path | None = None
        try:
            self._renew_lease()
            self._hold(key)
            temporary = self.folder / f".tmp-{self._token}-{uuid.uuid4().hex}"
            temporary.mkdir()
            for name, array in arrays.items():
                _write_array(temporary / f"{name}.npy", array)
            shapes = {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()}
            facts = json.loads(json.dumps(dict(facts), allow_nan=False))  # keys become texts, which sort otherwise
            stored = {"arrays": shapes, "facts": facts, "checksum": _checksum(shapes, facts)}
            disk.write_flushed(temporary / "facts.json", json.dumps(stored, allow_nan=False).encode())
            disk.flush_folder(temporary)
            try:
                temporary.rename(self.folder / key)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            disk.flush_folder(self.folder)
        except OSError as error:
            raise disk.CannotWrite(self._cannot_store(needed, error)) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        self._make_room(needed)

    def close(self) -> None:
        """Release the entries, so that other processes may evict them."""
        with self._lock:
            if self._token:
                self._finalizer()
            self._held.clear()
            self._token = ""

    def _hold(self, key: str) -> None:
        """Note the key in the lease and mark the entry as just used."""
        with self._lock:
            if key in self._held:
                return
            if not self._token:
                self._open_lease()
            os.write(self._lease, f"{key}\n".encode())
            self._held.add(key)
        with contextlib.suppress(OSError):  # not stored yet, or another user's
            os.utime(self.folder / key / "facts.json")

    def _open_lease(self) -> None:
        users = self.folder / ".users"
        users.mkdir(parents=True, exist_ok=True)
        while True:
            token = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            path = users / token
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():  # else another process took it for a dead one's before it was locked
                break
            os.close(descriptor)
        self._token, self._lease = token, descriptor
        self._finalizer = weakref.finalize(self, _release, path, descriptor)

    def _renew_lease(self) -> None:
        """Open a new lease where the folder was deleted."""
        with self._lock:
            if self._token and not (self.folder / ".users" / self._token).exists():
                self._finalizer()
                self._open_lease()
                os.write(self._lease, "".join(f"{key}\n" for key in self._held).encode())

    def _others(self) -> tuple[set[str], set[str]]:
        """Return (tokens, keys in use) of the other live processes; the leases of dead ones are removed."""
        tokens, keys = set(), set()
        for path in (self.folder / ".users").iterdir():
            if path.name == self._token:
                continue
            try:
                with path.open() as lease:
                    try:
                        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        tokens.add(path.name)
                        keys.update(lease.read().split())
                    else:
                        path.unlink()
            except FileNotFoundError:
                continue
        return tokens, keys

    def _make_room(self, added: float) -> None:
        with self._lock:
            self._size += added
            self._puts += 1
            if self._puts % _SCAN_EVERY != 1 and (self._size <= self.limit_bytes or self._warned):
                return
            tokens, used = self._others()
            entries = []
            for folder in self.folder.iterdir():
                if folder.name.startswith(".tmp-"):
                    token = "-".join(folder.name.split("-")[1:3])
                    if token != self._token and token not in tokens:
                        shutil.rmtree(folder, ignore_errors=True)  # its process was killed
                elif not folder.name.startswith("."):
                    entries.append((*_used_and_size(folder), folder.name))
            self._size = sum(size for _, size, _ in entries)
            for _, size, key in sorted(entries):
                if self._size <= self.limit_bytes:
                    return
                if key not in used and key not in self._held:
                    self._remove(key)
                    self._size -= size
            if self._size > self.limit_bytes and not self._warned:
                self._warned = True
                _log.warning(
                    "data.cache.limit_gb=%.3g is passed: the cases in use alone take %s in %s; raise it",
                    self.limit_bytes / 1e9,
                    readable_size(int(self._size)),
                    self.folder,
                )

    def _remove(self, key: str) -> None:
        """Remove an entry; it is renamed first, so that no process opens half of it. Open maps of it stay valid."""
        trash = self.folder / f".tmp-{self._token}-{uuid.uuid4().hex}"
        try:
            (self.folder / key).rename(trash)
        except OSError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _cannot_store(self, needed: int, error: OSError) -> str:
        try:
            free = f", {readable_size(shutil.disk_usage(self.folder).free)} free"
        except OSError:
            free = ""
        return (
            f"data.cache.folder={self.folder}: a prepared case could not be stored ({readable_size(needed)} "
            f"needed{free}): {error.strerror or error}; free some space, set data.cache.folder to another disk, "
            f"or lower data.cache.limit_gb={self.limit_bytes / 1e9:.4g}"
        )


def _checksum(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps([dict(arrays), dict(facts)], sort_keys=True).encode())


def _release(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _used_and_size(folder: Path) -> tuple[float, int]:
    """Return when an entry was last used, and its size in bytes; (0, 0) if it is being removed."""
    used, size = 0.0, 0
    try:
        for item in os.scandir(folder):
            facts = item.stat()
            size += facts.st_size
            if item.name == "facts.json":
                used = facts.st_mtime
    except FileNotFoundError:
        return 0.0, 0
    return used, size


def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    file = io.BytesIO()
    facts = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, facts)
    return file.getvalue()


def _read_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], in_memory: bool) -> np.ndarray:
    """Return the array, read-only. Its header is compared, not parsed: `np.load` parses it as Python code, which in
    threads now and then raises SystemError before Python 3.12 (cpython issue 106905).
    """
    header = _npy_header(shape, dtype)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path.name} does not hold {dtype} {list(shape)}")
        if in_memory:
            array = np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape)
            array.flags.writeable = False
            return array
        return np.memmap(file, dtype, "r", len(header), shape)  # the file: its name may be another entry's by now


def _write_array(path: Path, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        file.write(_npy_header(array.shape, array.dtype))
        file.write(array.reshape(-1).view(np.uint8).data)  # ndarray.tofile would lose the error's number
        file.flush()
        disk.flush(file.fileno())
