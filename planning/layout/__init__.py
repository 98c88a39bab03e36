"""Which layout a path holds, recognised from names and small text files alone."""
