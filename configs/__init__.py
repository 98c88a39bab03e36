"""Configuration of a run: the schema, its loader and the YAML experiments."""

import machine  # noqa: F401  # first: it tells how to start where packages are missing

# isort: split
from configs.schema.config import Config
from configs.schema.load import ConfigError, apply_overrides

__all__ = ["Config", "ConfigError", "apply_overrides"]
