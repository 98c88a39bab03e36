"""What the scripts call. The rooms know neither `data` nor `models`: only the files here bring them together."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing
