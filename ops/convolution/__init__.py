"""What both convolutions share: their geometry, the forms that they take in plain MLX, and which of them runs."""
