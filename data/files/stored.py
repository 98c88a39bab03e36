"""Voxels that lie in a file one after another, i fastest, then j, k and the channels, perhaps gzipped."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.files.gzip import read_content, read_pieces
from data.files.header import Header


def read_stored(header: Header) -> np.ndarray:
    """Voxels as stored, (i, j, k, C) in the file's axes and byte order, a view of the file's bytes."""
    content = read_content(header.voxels_path, header.num_bytes, header.tail_bytes)
    values = content[header.voxels_offset :].view(header.dtype)
    return values.reshape(header.channels, *header.source.shape[::-1]).T


def read_slabs(header: Header, most_bytes: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Voxels as stored in the order of the file: a channel's number, the first k, and some slices (k, j, i).

    A slab takes at most `most_bytes`, or is one slice. Raises FileProblem as `read_stored` does.
    """
    i, j, depth = header.source.shape
    slice_bytes = i * j * header.dtype.itemsize
    thickness = max(1, most_bytes // slice_bytes)
    starts = ((channel, k) for channel in range(header.channels) for k in range(0, depth, thickness))
    channel, k = next(starts)
    pending, skipped = bytearray(), 0
    for piece in read_pieces(header.voxels_path, header.num_bytes, header.tail_bytes):
        skip = min(len(piece), header.voxels_offset - skipped)
        skipped += skip
        pending += piece[skip:]
        while len(pending) >= (taken := min(thickness, depth - k) * slice_bytes):
            yield channel, k, np.frombuffer(bytes(pending[:taken]), header.dtype).reshape(-1, j, i)
            del pending[:taken]
            channel, k = next(starts, (header.channels, 0))
            if channel == header.channels:
                break


def write_stored(path: Path, head: bytes, values: np.ndarray) -> None:
    """Write a header and (i, j, k[, C]) values to a file, gzipped where its name ends in gz."""
    packer = zlib.compressobj(level=3, wbits=31) if path.name.endswith("gz") else None  # no time stamp
    volumes = values if values.ndim == 4 else values[..., None]
    with path.open("wb") as file:
        file.write(packer.compress(head) if packer else head)
        for channel in range(volumes.shape[3]):
            for k in range(volumes.shape[2]):
                plane = volumes[:, :, k, channel].tobytes(order="F")
                file.write(packer.compress(plane) if packer else plane)
        if packer:
            file.write(packer.flush())
