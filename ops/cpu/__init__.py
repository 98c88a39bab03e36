"""The operators on a Linux x86-64 CPU, named as in `ops`: oneDNN, Numba, the allocator. Imported where they run."""
