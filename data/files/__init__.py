"""Reading and writing files: volumes and videos, with their grids in RAS+."""
