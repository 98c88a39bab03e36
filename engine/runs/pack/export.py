"""A run into one file: what is taken along, and what stays."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from configs import Config
from engine.metrics.segmentation import SURFACE_DEFINITION
from engine.runs.checkpoints import load_weights, read_state
from engine.runs.environment import describe_environment
from engine.runs.pack.archive import PackError, write_archive
from engine.runs.pack.config import neutral_config, write_config
from engine.runs.pack.manifest import Facts, only_numbers, require_fit, write_facts
from engine.runs.pack.model_card import LEFT_OUT, write_card
from engine.runs.pack.packed_run import Pack, read_pack, read_weights
from engine.runs.pack.tensors import encode_tensors
from engine.runs.run_folder import RunFolder

UNSPECIFIED = "unspecified"

SPLITS = ("train", "val", "test")
"""Evaluations that are taken along: those of the run's own splits. `all` may be of other data."""


def export_run(
    path: Path | str, run: RunFolder, config: Config, model: nn.Module, checkpoint: Path, name: str, licence: str | None
) -> Pack:
    """Pack the run's weights into the new file `path`, read it back, and return it.

    model: the config's network; its weights are replaced by the checkpoint's, by their moving average where
    config.evaluate.weights asks for it. name: what the checkpoint was called.
    licence: its name or text; None packs UNSPECIFIED. The same run gives the same bytes.

    Raises PackError where the file exists, or the run cannot be packed.
    """
    path = Path(path)
    if path.suffix != ".zip":
        raise PackError(path, "a pack's name ends in .zip")
    if path.exists():
        raise PackError(path, "exists already, and packs are not overwritten: choose another name, or remove it")
    step = read_state(checkpoint)["step"]
    kind = load_weights(model, checkpoint, config.evaluate.weights)
    weights = dict(tree_flatten(model.parameters()))
    members = {"config.yaml": write_config(config), "model.safetensors": encode_tensors(weights)}
    environment = describe_environment()
    tree = {
        "licence": " ".join((licence or UNSPECIFIED).split()),
        "checkpoint": {"name": name, "step": step, "weights": kind},
        "parameters": sum(tensor.size for tensor in weights.values()),
        "statistics": run.read_json("statistics"),
        "temperatures": _temperatures(run, step, kind),
        "metrics": {split: found for split in SPLITS if (found := _metrics(run, split, step, kind))},
        "versions": {"python": environment["python"], **environment["packages"]},
        "sha256": {member: hashlib.sha256(content).hexdigest() for member, content in members.items()},
    }
    try:
        facts = Facts.model_validate(tree)
    except ValueError as error:
        raise PackError(run.path, f"cannot be packed: {error}") from None
    neutral = neutral_config(config)
    require_fit(facts, neutral, run.path)
    members = {"README.md": write_card(neutral, facts).encode(), "pack.json": write_facts(facts), **members}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_archive(path, members)
    read_weights(path)
    return read_pack(path)


def describe(pack: Pack) -> str:
    """Return a few lines on what was packed, what not, and what is missing."""
    facts = pack.facts
    checkpoint = facts.checkpoint
    named = [f"{split} (optimistic)" if "optimistic" in found else split for split, found in facts.metrics.items()]
    scores = ", ".join(named) or "none (this version's evaluate.py was not run on these weights)"
    lines = [
        f"pack      {pack.path}, {pack.path.stat().st_size / 1e6:.1f} MB",
        f"weights   {checkpoint.weights} of step {checkpoint.step}, {facts.parameters:,} numbers",
        f"classes   {', '.join(facts.class_names)}",
        f"scores    {scores}",
        f"licence   {facts.licence}",
        f"left out  {LEFT_OUT}",
    ]
    if facts.licence == UNSPECIFIED:
        lines.append("warning: without a licence only you may use the model; name one with --licence TEXT")
    return "\n".join(lines)


def _metrics(run: RunFolder, split: str, step: int, kind: str) -> dict[str, Any] | None:
    """Scores of the run's evaluation of a split, without any case's; None where it was of other weights."""
    metrics = _read_if_there(run.evaluation(split) / "metrics.json")
    if metrics is None or not metrics.get("num_cases"):
        return None
    evaluated = metrics["checkpoint"]
    if (evaluated["step"], evaluated["weights"]) != (step, kind):
        return None
    if "empty" in metrics and metrics.get("surface_definition") != SURFACE_DEFINITION:
        return None  # its hd95_mm and nsd are others
    kept: dict[str, Any] = only_numbers(
        {key: metrics[key] for key in ("num_cases", "details", "optimistic") if key in metrics}
    )
    return kept


def _temperatures(run: RunFolder, step: int, kind: str) -> dict[str, float]:
    """Those of the run's temperature.json that were fitted for these weights."""
    found = _read_if_there(run.path / "temperature.json") or {}
    entries = {"plain": found, "mc_dropout": found.get("mc_dropout", {})}
    return {
        name: entry["temperature"]
        for name, entry in entries.items()
        if "temperature" in entry and (entry["fitted_on"]["step"], entry["fitted_on"]["weights"]) == (step, kind)
    }


def _read_if_there(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
