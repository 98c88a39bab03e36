"""Files on disk to cases, cases to batches of patches, in NumPy; no MLX array is made here."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing
