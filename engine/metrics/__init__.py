"""Scores of predictions, their means and intervals."""
