"""Files on disk to cases, cases to batches of patches, in NumPy; no MLX array is made here."""

import machine  # noqa: F401  # first: where packages are missing, it prints how to start
