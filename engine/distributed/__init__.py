"""Several processes that train or evaluate as one."""
