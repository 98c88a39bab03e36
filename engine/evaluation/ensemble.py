"""Several runs as one (deep ensembles, Lakshminarayanan et al. 2017, arXiv:1612.01474): whether they go together."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from configs import Config
from configs.schema.data import DataConfig
from configs.schema.roles import keys_where, says_which_data
from engine.evaluation.classification import is_multi_label
from engine.evaluation.seen import own_splits
from engine.runs.run_folder import RunFolder

_log = logging.getLogger("mlx_volumes")


def join_config(config: Config, other: RunFolder, other_config: Config, run: RunFolder) -> Config:
    """Return the config of another member, its data looked for where the first one's are.

    Each member keeps its own preparation, intensity statistics and windows. Raises ValueError where the two have
    different tasks, classes, channels or grids.
    """
    for name, first, second in _what_must_agree(config, run, other_config, other):
        if first != second:
            raise ValueError(
                f"--run {other.path}: {name} is {second}, that of {run.path} {first}; an ensemble's members predict "
                "the same classes from the same channels on one grid"
            )
    where = {key: getattr(config.data, key) for key in keys_where(DataConfig, says_which_data) if "." not in key}
    if config.data.clip is not None and other_config.data.clip is not None:
        rate = {"image_frame_rate": config.data.clip.image_frame_rate}
        where["clip"] = other_config.data.clip.model_copy(update=rate)
    return other_config.model_copy(update={"data": other_config.data.model_copy(update=where)})


def _what_must_agree(
    config: Config, run: RunFolder, other_config: Config, other: RunFolder
) -> Iterable[tuple[str, Any, Any]]:
    yield "task", config.task, other_config.task
    facts, others = run.read_json("statistics"), other.read_json("statistics")
    for key, name in (("class_names", "the list of classes"), ("num_channels", "the number of channels")):
        yield name, facts[key], others[key]
    for key in ("channels", "spacing_mm", "crop_nonzero"):
        yield f"data.{key}", getattr(config.data, key), getattr(other_config.data, key)
    yield "data.regions", config.data.regions, other_config.data.regions
    yield "whether classes may coincide", is_multi_label(config), is_multi_label(other_config)


def find_seen(case_ids: Sequence[str], split: str, run: RunFolder, root: Path, fingerprint: str) -> list[str]:
    """Return the cases that a run, the first or another member, was trained on; see `own_splits`.

    Raises ValueError where they are of a split that the first run kept apart. With "train" or "all", which hold what
    was trained on, it is said in a warning.
    """
    seen = sorted(set(case_ids) & set(own_splits(run, root, fingerprint).get("train", ())))
    if not seen:
        return []
    found = f"{run.path} was trained on {len(seen)} of the {len(case_ids)} cases, {seen[0]} among them"
    if split in ("val", "test"):
        raise ValueError(
            f"{found}: its scores on the {split} split would be optimistic; give runs of one data.fold, or --split test"
        )
    _log.warning("%s", found)
    return seen
