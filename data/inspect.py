"""`python -m data.inspect` is `python -m planning.inspect` now; this line stays for one release."""

import sys

if __name__ == "__main__":
    sys.exit("python -m data.inspect has moved: python -m planning.inspect " + " ".join(sys.argv[1:]))
