"""`python -m models.convert` is `python -m engine.convert` now; this line stays for one release."""

import sys

if __name__ == "__main__":
    sys.exit("python -m models.convert has moved: python -m engine.convert " + " ".join(sys.argv[1:]))
