"""Whether a run may be continued with the config and the data at hand."""

import logging
from collections.abc import Mapping
from typing import Any

from configs import Config
from configs.schema.roles import is_within, keys_where, may_change_on_resume
from engine.runs.run_folder import RunFolder

_log = logging.getLogger("mlx_volumes")

_SHOWN = 5  # files named in a message


def check_config_unchanged(run: RunFolder, config: Config) -> None:
    """Log what differs from the run's own config; raise ValueError where a key differs that decides the result."""
    old, new = flatten(run.read_config_tree()), flatten(config.model_dump(mode="json"))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    lines = {key: f"{key}: {old.get(key)} -> {new.get(key)}" for key in differing}
    safe = keys_where(type(config), may_change_on_resume)  # data.root among them: `check_data_unchanged` follows
    unsafe = [line for key, line in lines.items() if not is_within(key, safe)]
    if unsafe:
        raise ValueError(
            f"{run.config_path}: --resume with another config; these keys decide the result and must stay as they "
            "were:\n"
            + "\n".join(f"  {line}" for line in unsafe)
            + "\nset them back, or start a new run under another name"
        )
    for key, line in lines.items():
        if key != "resume":
            _log.info("resumed with %s", line)
    if any(key.startswith(("train.steps", "train.epochs")) for key in differing):
        _log.info("the learning-rate schedule follows the new budget from here on")


def check_data_unchanged(run: RunFolder, state: Mapping[str, Any], fingerprint: str) -> None:
    """Raise ValueError where the checkpoint was trained on other data."""
    then = state.get("data_fingerprint")
    if then != fingerprint:
        raise ValueError(
            f"{run.path}: the data changed since this run began (fingerprint {then}, now "
            f"{fingerprint}): files, classes, or how cases are prepared; bring them back, or start a new run under "
            "another name"
        )


def check_files_unchanged(run: RunFolder, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError that names the files that differ: `then` is the run's files.json, `now` of the same form.

    Where files lie, and when they were written, may change.
    """
    lines = []
    for name in sorted(then.keys() | now.keys()):
        if name not in now:
            lines.append(f"{then[name]['path']}: gone")
        elif name not in then:
            lines.append(f"{now[name]['path']}: new")
        elif then[name]["bytes"] != now[name]["bytes"]:
            lines.append(f"{now[name]['path']}: {now[name]['bytes']} bytes, {then[name]['bytes']} before")
        elif then[name]["hash"] != now[name]["hash"]:
            lines.append(f"{now[name]['path']}: other contents of the same size")
    if lines:
        more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ValueError(
            f"{run.path}: the data changed since this run began:\n"
            + "\n".join(f"  {line}" for line in lines[:_SHOWN])
            + f"{more}\nbring the files back, or start a new run under another name"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {dotted path: value} of nested mappings."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result.update(flatten(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
