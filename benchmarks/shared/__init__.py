"""What several benchmarks share: what they train, its twin in PyTorch, and processes that take turns."""
