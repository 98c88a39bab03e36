"""A run's config where it is evaluated or predicts, with what may change there."""

from collections.abc import Mapping

from configs import Config
from configs.schema.load import ConfigError, Overrides, apply_overrides, check_config
from engine.runs.check_resume import is_within
from engine.runs.run_folder import RunFolder

MAY_CHANGE = (
    "ops",
    "threads",
    "memory_limit_gb",
    "data.source",
    "data.root",
    "data.images",
    "data.labels",
    "data.columns",
    "data.class_names",
    "data.label_map",
    "data.cache",
    "train.precision",
    "evaluate",
)
"""Keys that may be set here: where the data and their labels lie, how prediction runs. Training settled the rest."""


def read_config(run: RunFolder, overrides: Overrides) -> Config:
    """The run's config with the overrides on top; bad cases are skipped, and reported at the end."""
    for override in overrides:
        key = override if isinstance(overrides, Mapping) else override.partition("=")[0]
        if not is_within(key, MAY_CHANGE):
            raise ConfigError(
                f"{override}: {key} was settled when {run.path} was trained; keys that may be set here are "
                f"{', '.join(MAY_CHANGE)}, and those below them"
            )
    tree = apply_overrides(apply_overrides(run.read_config_tree(), overrides), {"data.on_error": "skip"})
    return check_config(tree, where=str(run.config_path))
