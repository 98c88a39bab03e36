"""The config in a pack: what prediction needs and how the network was trained, without where and on which cases.

A key's role says whether it stays (`configs.schema.roles.is_packed`); a test lists them, so each new one is decided on.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs import Config
from configs.plain_yaml import read_yaml
from configs.schema.load import ConfigError, check_config, rename_old_keys
from configs.schema.roles import is_packed, keys_where, pick
from engine.runs.pack.archive import PackError, printable

NO_ROOT = "NOT-IN-THE-PACK"
"""The packed `data.root`: where labelled data lie is told on the command line."""

# A pack's config decides how much prediction takes at a time. These are far beyond what a run has.
_MAX_VALUES = 1 << 28  # of one input, channels left out: 1 GiB
_MAX_BATCH_VALUES = 1 << 31
_MAX_VIEWS = 300


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def neutral_config(config: Config) -> Config:
    """Return the config with each path, case id and machine setting at its default, its name without folders."""
    tree = config.model_dump(mode="json", by_alias=True)
    labels = ("data.columns.label",) if isinstance(config.data.columns.label, tuple) else ()  # classes may coincide
    kept = pick(tree, (*keys_where(type(config), is_packed), *labels))
    kept["name"], kept["data"]["root"] = config.name.rpartition("/")[2], NO_ROOT
    return check_config(kept, where="the packed config")


def write_config(config: Config) -> bytes:
    """Return the neutral config as YAML."""
    tree = neutral_config(config).model_dump(mode="json", by_alias=True)
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def read_config(content: bytes, where: Path) -> Config:
    """Return the checked config of a pack, made neutral again: whatever paths it holds, none is used.

    Raises PackError where it is not plain YAML, does not fit the schema, or asks for absurd amounts of memory.
    """
    where = where / "config.yaml"
    try:
        tree = read_yaml(content)
        if not isinstance(tree, dict):
            raise PackError(where, f"expected a mapping of config keys, got {type(tree).__name__}")
        config = neutral_config(check_config(rename_old_keys(clean(tree)), where="config"))
    except ConfigError as error:
        raise PackError(where, f"not a config that this version can read ({_short(error)})") from None
    except PackError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise PackError(where, f"not plain YAML ({_short(error)})") from None
    _require_moderate(config, where)
    return config


def clean(tree: Any) -> Any:
    """Return the same tree, its strings printable."""
    if isinstance(tree, Mapping):
        return {clean(key): clean(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [clean(value) for value in tree]
    return printable(tree) if isinstance(tree, str) else tree


def _require_moderate(config: Config, where: Path) -> None:
    data, evaluation = config.data, config.evaluate
    sizes = [data.input_size, evaluation.window_size_voxels or data.input_size]
    largest = max(math.prod(size) for size in sizes)
    clip = data.clip
    views = 1 if clip is None else clip.clips * clip.crops
    for key, value, limit in (
        ("voxels of an input", largest, _MAX_VALUES),
        ("voxels of a batch", largest * max(evaluation.window_batch, config.train.batch_size), _MAX_BATCH_VALUES),
        ("views of a clip", views, _MAX_VIEWS),
        ("frame steps of a clip", 1 if clip is None else clip.frames * clip.stride, 1 << 16),
    ):
        if value > limit:
            raise PackError(where, f"{key}: {value:,} exceeds the limit for packs, {limit:,}")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:400]} ..."
