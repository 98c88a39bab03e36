"""A folder's fingerprint -> warnings, a page, and a complete config."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing
