"""Bytes of plain and gzipped files, never more of them than the header promises.

gzip is recognised by its magic number, whatever the file is called. Pieces are large, as zlib releases the
interpreter's lock for the length of one: threads then decompress side by side.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.files.errors import FileProblem, readable_size

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # what deflate reaches at most: 258 bytes for two bits
TRAILING_BYTES = 4096  # more than promised, and not yet suspect: some writers pad to a block
PIECE_BYTES = 16 << 20
RESTORE = "restore the file from its origin"


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading; what the system refuses comes as a FileProblem."""
    try:
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


def is_gzipped(path: Path) -> bool:
    """Whether the content starts as gzip does."""
    with open_file(path) as file:
        return file.read(2) == GZIP_MAGIC


def inflated(path: Path, piece_bytes: int, read_bytes: int = PIECE_BYTES // 4) -> Iterator[bytes]:
    """The content of a gzip file, all members of it, in pieces of at most `piece_bytes`."""
    with open_file(path) as file:
        member, pending = zlib.decompressobj(wbits=31), b""
        while True:
            pending = pending or file.read(read_bytes)
            at_end = not pending
            if member.eof:
                if at_end:
                    return
                pending = pending.lstrip(b"\0")  # gzip allows zeros after a member
                if pending:
                    member = zlib.decompressobj(wbits=31)
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


def read_content(path: Path, num_bytes: int) -> np.ndarray:
    """The first `num_bytes` of a file's content as uint8, all members and checksums verified.

    Raises FileProblem where there is less, or TRAILING_BYTES more, than that: nothing beyond is inflated.
    """
    if (problem := size_problem(path, num_bytes)) is not None:
        raise problem
    if not is_gzipped(path):
        with open_file(path) as file:
            return np.fromfile(file, dtype=np.uint8, count=num_bytes)
    content = np.empty(num_bytes, dtype=np.uint8)
    filled = seen = 0
    for piece in inflated(path, PIECE_BYTES):
        seen += len(piece)
        if seen > num_bytes + TRAILING_BYTES:
            raise too_long(path, num_bytes)
        part = np.frombuffer(piece, dtype=np.uint8)[: num_bytes - filled]
        content[filled : filled + len(part)] = part
        filled += len(part)
    if filled < num_bytes:
        raise too_short(path, num_bytes, filled)
    return content


def size_problem(path: Path, num_bytes: int) -> FileProblem | None:
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
    return too_long(path, num_bytes) if size > num_bytes + TRAILING_BYTES else None


def gzip_problem(path: Path, num_bytes: int) -> FileProblem | None:
    """Whether a gzip file ends as it should: cheap where its last bytes hold the promised length."""
    if not is_gzipped(path):
        return None
    with open_file(path) as file:
        file.seek(max(0, path.stat().st_size - 4))
        length = int.from_bytes(file.read(4), "little")  # of the last member, modulo 2**32
    if 0 <= (length - num_bytes) % 2**32 <= TRAILING_BYTES:
        return None
    seen = 0
    try:  # several members, zeros at the end, or damage: only the whole file tells
        for piece in inflated(path, PIECE_BYTES):
            seen += len(piece)
            if seen > num_bytes + TRAILING_BYTES:
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
