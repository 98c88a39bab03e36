"""The operators on a Linux x86-64 CPU: oneDNN, Numba, the allocator. Imported where they run."""
