"""A run's folder: config, checkpoints, resuming, stopping, packs."""
