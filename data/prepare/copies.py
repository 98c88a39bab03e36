"""The same scan or clip under two names, told by what is decoded of it."""

from hashlib import blake2b

import numpy as np


def voxel_digest(array: np.ndarray) -> str:
    """Hash of the array's shape and values."""
    digest = blake2b(str(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
