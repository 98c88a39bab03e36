"""Which layout a path holds, told from names and small text files alone."""
