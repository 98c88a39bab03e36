"""What networks are made of: blocks, norms, dropout, heads."""
