"""A folder's fingerprint -> warnings, a page, and a complete config."""

import machine  # noqa: F401  # first: where packages are missing, it prints how to start
