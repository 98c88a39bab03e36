"""The project against PyTorch on the same work, in one run."""
