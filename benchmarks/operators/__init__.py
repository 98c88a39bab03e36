"""Each operator against PyTorch: `python -m benchmarks.operators`."""
