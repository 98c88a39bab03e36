"""A run's config where it is evaluated or predicts, with what may change there."""

from collections.abc import Mapping

from configs import Config
from configs.schema.load import ConfigError, Overrides, apply_overrides, bound, check_config
from configs.schema.roles import is_within, keys_where, may_change_in_evaluation
from engine.runs.run_folder import RunFolder


def read_config(run: RunFolder, overrides: Overrides) -> Config:
    """Return the run's config with the overrides on top; bad cases are skipped, and reported at the end."""
    free = keys_where(bound(), may_change_in_evaluation)
    for override in overrides:
        key = override if isinstance(overrides, Mapping) else override.partition("=")[0]
        if not is_within(key, free):
            raise ConfigError(
                f"{override}: {key} was fixed when {run.path} was trained; keys that may be set here are "
                f"{', '.join(free)}, and those below them"
            )
    tree = apply_overrides(apply_overrides(run.read_config_tree(), overrides), {"data.on_error": "skip"})
    return check_config(tree, where=str(run.config_path))
