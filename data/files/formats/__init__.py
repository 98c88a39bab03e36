"""Formats of volumes: headers and voxels of each, in a file."""
