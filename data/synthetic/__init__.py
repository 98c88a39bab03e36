"""Generated volumes and clips, for demos and tests."""
