"""Folders and tables on disk -> cases."""
