"""Operators with a faster form than MLX's own on a Linux x86-64 CPU; nothing native loads on import."""
