"""The cells of a sweep beside each other: what their runs scored, what the differences are worth."""
