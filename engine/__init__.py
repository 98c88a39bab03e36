"""What the scripts call. The rooms know neither `data` nor `models`; they meet in the files beside them alone."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing
