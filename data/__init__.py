"""Files on disk to cases, cases to batches of patches, in NumPy; no MLX array is made here."""
