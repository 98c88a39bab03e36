"""The project against PyTorch on the same work, in one run."""

import machine  # noqa: F401  # first: it says how to start where packages are missing
