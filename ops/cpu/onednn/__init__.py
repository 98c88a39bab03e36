"""oneDNN: its library, primitives built of it, and convolutions as MLX functions with gradients."""
