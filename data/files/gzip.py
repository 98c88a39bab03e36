"""Bytes of plain and gzipped files, never more of them than the header promises.

gzip is recognised by its magic number, whatever the file is called. Pieces are large, as zlib releases the
interpreter's lock for the length of one: threads then decompress side by side.
"""

import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.files.errors import RESTORE, FileProblem, readable_size

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # what deflate reaches at most: 258 bytes for two bits
WBITS = 47  # gzip or zlib, as the data begin
TRAILING_BYTES = 4096  # more than promised, and not yet suspect: some writers pad to a block
PIECE_BYTES = 16 << 20


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading; what the system refuses, and what is no regular file, comes as a FileProblem."""
    try:
        mode = path.stat().st_mode  # first, as opening a pipe waits for who writes to it
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise FileProblem(path, f"is {_kind_of(mode)}, not a regular file", "replace it by the file, or remove it")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise FileProblem(path, "no such file", "correct the path, or remove the case") from None
    except IsADirectoryError:
        raise FileProblem(path, "is a folder, not a file", "name the file inside it") from None
    except PermissionError:
        raise FileProblem(path, "may not be read (permission denied)", f"chmod +r {path.name}") from None
    except OSError as error:
        raise FileProblem(path, f"cannot be read ({error.strerror or error})", RESTORE) from None


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, with or without a byte order mark. Raises FileProblem."""
    with open_file(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileProblem(path, f"not UTF-8 text ({error})", "save it as UTF-8") from None


def _kind_of(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe (FIFO)"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def is_gzipped(path: Path) -> bool:
    """Whether the content starts as gzip does."""
    with open_file(path) as file:
        return file.read(2) == GZIP_MAGIC


def inflated(path: Path, piece_bytes: int, read_bytes: int = PIECE_BYTES // 4, start: int = 0) -> Iterator[bytes]:
    """What gzip or zlib packed from byte `start` on, all members of it, in pieces of at most `piece_bytes`."""
    with open_file(path) as file:
        file.seek(start)
        member, pending = zlib.decompressobj(wbits=WBITS), b""
        while True:
            pending = pending or file.read(read_bytes)
            at_end = not pending
            if member.eof:
                if at_end:
                    return
                pending = pending.lstrip(b"\0")  # gzip allows zeros after a member
                if pending:
                    member = zlib.decompressobj(wbits=WBITS)
                continue
            try:
                piece = member.decompress(pending, piece_bytes)
            except zlib.error as error:
                raise FileProblem(path, f"damaged gzip data ({error})", RESTORE) from None
            pending = member.unused_data if member.eof else member.unconsumed_tail
            if piece:
                yield piece
            elif at_end and not member.eof:
                raise FileProblem(path, "truncated gzip data: the file ends too early", RESTORE)


def read_head(path: Path, num_bytes: int) -> bytes:
    """The first `num_bytes` of a file's content, or all of it where it is shorter."""
    if not is_gzipped(path):
        with open_file(path) as file:
            return file.read(num_bytes)
    head = b""
    for piece in inflated(path, num_bytes, read_bytes=4096):
        head += piece
        if len(head) >= num_bytes:
            break
    return head[:num_bytes]


def read_content(path: Path, num_bytes: int, tail_bytes: int = TRAILING_BYTES) -> np.ndarray:
    """The first `num_bytes` of a file's content as uint8, all members and checksums verified.

    Raises FileProblem where there is less, or `tail_bytes` more, than that: nothing beyond is inflated.
    """
    if (problem := size_problem(path, num_bytes, tail_bytes)) is not None:
        raise problem
    if not is_gzipped(path):
        with open_file(path) as file:
            return np.fromfile(file, dtype=np.uint8, count=num_bytes)
    content = np.empty(num_bytes, dtype=np.uint8)
    filled = 0
    for piece in read_pieces(path, num_bytes, tail_bytes):
        content[filled : filled + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        filled += len(piece)
    return content


def read_pieces(path: Path, num_bytes: int, tail_bytes: int = TRAILING_BYTES) -> Iterator[bytes]:
    """What `read_content` reads, piece by piece, checked alike; what is wrong at the end is raised after the last."""
    if (problem := size_problem(path, num_bytes, tail_bytes)) is not None:
        raise problem
    seen = 0
    for piece in inflated(path, PIECE_BYTES) if is_gzipped(path) else _plain(path):
        yield piece[: max(0, num_bytes - seen)]
        seen += len(piece)
        if seen > num_bytes + tail_bytes:
            raise too_long(path, num_bytes)
    if seen < num_bytes:
        raise too_short(path, num_bytes, seen)


def _plain(path: Path) -> Iterator[bytes]:
    with open_file(path) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def size_problem(path: Path, num_bytes: int, tail_bytes: int = TRAILING_BYTES) -> FileProblem | None:
    """What the file's size alone tells about a promise of `num_bytes` of content."""
    with open_file(path):
        size = path.stat().st_size
    if is_gzipped(path):
        if num_bytes > MAX_DEFLATE_RATIO * size:
            reason = f"header promises {readable_size(num_bytes)}, more than {readable_size(size)} of gzip can hold"
            return FileProblem(path, reason, RESTORE)
        return None
    if size < num_bytes:
        return too_short(path, num_bytes, size)
    return too_long(path, num_bytes) if size > num_bytes + tail_bytes else None


def gzip_problem(path: Path, num_bytes: int, tail_bytes: int = TRAILING_BYTES) -> FileProblem | None:
    """Whether a gzip file ends as it should: cheap where its last bytes hold the promised length."""
    if not is_gzipped(path):
        return None
    with open_file(path) as file:
        file.seek(max(0, path.stat().st_size - 4))
        length = int.from_bytes(file.read(4), "little")  # of the last member, modulo 2**32
    if 0 <= (length - num_bytes) % 2**32 <= tail_bytes:
        return None
    seen = 0
    try:  # several members, zeros at the end, or damage: only the whole file tells
        for piece in inflated(path, PIECE_BYTES):
            seen += len(piece)
            if seen > num_bytes + tail_bytes:
                return too_long(path, num_bytes)
    except FileProblem as problem:
        return problem
    return too_short(path, num_bytes, seen) if seen < num_bytes else None


def too_short(path: Path, promised: int, found: int) -> FileProblem:
    """The problem of a file that ends before all promised bytes came."""
    reason = f"truncated: header promises {promised} bytes ({readable_size(promised)}), the file holds {found}"
    return FileProblem(path, reason, RESTORE)


def too_long(path: Path, promised: int) -> FileProblem:
    """The problem of a file with far more content than its header accounts for."""
    reason = f"holds more data than the {readable_size(promised)} that its header promises"
    return FileProblem(path, reason, "the header's shape or type is wrong: write the file anew")
