"""Start weights, frozen weights, and the moving average of the weights."""
