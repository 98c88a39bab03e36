"""A survey turned into a config, each decision with its reason."""
