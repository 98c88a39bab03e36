"""Names and tensors of other frameworks' networks."""
