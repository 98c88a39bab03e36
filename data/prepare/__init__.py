"""A case's files -> the arrays that training reads: checked, resampled, normalised, cached."""
