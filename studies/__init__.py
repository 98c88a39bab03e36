"""Many runs as one study."""

import machine  # noqa: F401  # first: it prints how to start where packages are missing
