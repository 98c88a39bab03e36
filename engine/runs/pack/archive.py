"""The zip of a pack: members known by name, read into memory within limits; nothing is ever extracted.

A pack may come from a stranger. So the archive's end is looked at before `zipfile` believes it, members are
taken by their exact names, sizes are bounded before and while reading, and a member of any other name, kind or
encoding is an error.
"""

import io
import os
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from machine import disk

MiB = 1 << 20
LIMITS = {
    "pack.json": 4 * MiB,
    "config.yaml": MiB // 4,
    "README.md": MiB,
    "model.safetensors": (1 << 31) - MiB,  # beyond that a zip needs its 64-bit form
}
"""The members of a pack, all of them required, and how many bytes each may have."""

_END = struct.Struct("<4s4H2LH")  # end of central directory, without comment
_LOCATOR_BYTES = 20  # of the 64-bit form's locator, right before the end
_DIRECTORY_LIMIT = 4096


class PackError(ValueError):
    """A pack that cannot be read, or a run that cannot be packed. The message is one printable line."""

    def __init__(self, where: Path | str, message: str) -> None:
        super().__init__(printable(f"{where}: {' '.join(message.split())}"))


def printable(text: str) -> str:
    """Return the text with control characters (escapes, line ends, reversals of direction) replaced by �."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Write the members, at once: a kill leaves no half of a pack. The same members give the same bytes.

    Raises PackError for a member beyond its limit, OSError where the disk does not take it.
    """
    for name, content in members.items():
        if len(content) > LIMITS[name]:
            raise PackError(path, f"{name} has {len(content):,} bytes; a pack takes at most {LIMITS[name]:,}")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members.items():
                    info = zipfile.ZipInfo(name)  # of 1980: when a pack was made says nothing, and would change it
                    # Weights hardly shrink; stored, they can be no more than the file itself.
                    info.compress_type = zipfile.ZIP_STORED if name == "model.safetensors" else zipfile.ZIP_DEFLATED
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                    archive.writestr(info, content)
            file.flush()
            disk.flush(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Archive:
    """A pack's zip, open for reading. Raises PackError where it is not exactly what `write_archive` writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.open("rb")
        except OSError as error:
            raise PackError(path, f"cannot be read ({error.strerror})") from None
        try:
            self._check_end(content)
            self._zip = zipfile.ZipFile(content)
            self._members = self._check_members(self._zip)
        except PackError:
            content.close()
            raise
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            content.close()
            raise PackError(path, f"not a complete zip file ({error}); fetch the pack again") from None
        self._content = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._content.close()

    def read(self, name: str) -> bytes:
        """Return the whole member, of as many bytes as it declares. Raises PackError."""
        info = self._members[name]
        try:
            with self._zip.open(info) as member:
                content = member.read(info.file_size + 1)  # bounds what is unpacked; at the end checks the CRC
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise PackError(self.path, f"{name} is damaged ({error}); fetch the pack again") from None
        if len(content) != info.file_size:
            raise PackError(self.path, f"{name} is damaged: {len(content)} bytes of {info.file_size}")
        return content

    def _check_end(self, file: io.BufferedReader) -> None:
        """The directory is small, of the plain form, and said to be so where `zipfile` looks first."""
        size = file.seek(0, os.SEEK_END)
        if size < _END.size:
            raise PackError(self.path, "not a zip file; a pack is made by evaluate.py --run DIR --export FILE.zip")
        file.seek(max(0, size - _END.size - _LOCATOR_BYTES))
        tail = file.read()
        signature, disk, first_disk, here, entries, length, _, comment = _END.unpack(tail[-_END.size :])
        if signature != b"PK\x05\x06" or comment:
            raise PackError(self.path, "not a complete zip file, or not a pack; fetch it again")
        if tail[:4] == b"PK\x06\x07" or disk or first_disk or here != entries:
            raise PackError(self.path, "not a pack: a zip file of several parts, or of the 64-bit form")
        if entries > 2 * len(LIMITS) or length > _DIRECTORY_LIMIT:
            raise PackError(self.path, f"not a pack: it holds {entries} members, expected {', '.join(LIMITS)}")
        file.seek(0)

    def _check_members(self, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.orig_filename
            if name not in LIMITS:
                raise PackError(self.path, f"not a pack: unexpected member {name!r}; expected {', '.join(LIMITS)}")
            if name in members:
                raise PackError(self.path, f"not a pack: two members are named {name}")
            mode = info.external_attr >> 16
            if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
                raise PackError(self.path, f"not a pack: {name} is a link or a special file")
            if info.flag_bits & 0x61 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise PackError(self.path, f"not a pack: {name} is encrypted, or compressed by an unknown method")
            if name == "model.safetensors" and info.compress_type != zipfile.ZIP_STORED:
                raise PackError(self.path, f"not a pack: {name} is compressed; packs store it as it is")
            if info.file_size > LIMITS[name]:
                raise PackError(
                    self.path, f"{name} declares {info.file_size:,} bytes; at most {LIMITS[name]:,} are read"
                )
            members[name] = info
        if missing := [name for name in LIMITS if name not in members]:
            raise PackError(self.path, f"not a pack: {', '.join(missing)} is missing")
        total, there = sum(info.compress_size for info in members.values()), os.path.getsize(self.path)
        if total > there:
            raise PackError(self.path, f"not a complete pack: members of {total:,} bytes in a file of {there:,}")
        return members
