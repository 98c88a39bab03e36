"""Whether a device computes what a CPU does: `python -m benchmarks.device_check`."""
