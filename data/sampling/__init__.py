"""Prepared cases -> patches and clips, augmented."""
