"""A hash of what is decoded of a scan or clip, by which copies under other names are found."""

from hashlib import blake2b
from pathlib import Path

import numpy as np

from data.files.formats.registry import parts_of
from data.files.gzip import PIECE_BYTES, open_file


def voxel_digest(array: np.ndarray) -> str:
    """Return a hash of the array's shape and values."""
    digest = blake2b(str(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """Return a hash of a file's bytes, or of those of all files right in a folder. Raises FileProblem."""
    digest = blake2b()
    for part in parts_of([path]):
        with open_file(part) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()
