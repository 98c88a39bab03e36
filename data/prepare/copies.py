"""A hash of what is decoded of a scan or clip, by which copies under other names are found."""

from hashlib import blake2b

import numpy as np


def voxel_digest(array: np.ndarray) -> str:
    """Return a hash of the array's shape and values."""
    digest = blake2b(str(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
