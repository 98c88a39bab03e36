"""The device at hand: what runs on it, and what `train.precision` becomes there, settled once and kept."""

import logging

from configs import Config
from engine.distributed.group import Group
from engine.runs.run_folder import RunFolder
from ops import backend, memory

_log = logging.getLogger("mlx_volumes")


def set_up_device(config: Config) -> None:
    """Choose the operators, their threads and the memory limit that the config asks for, before anything is built."""
    backend.choose(config.ops, config.threads)  # first: it sets the allocator, before other threads start
    memory.set_limit(config.memory_limit_gb)


def settle(asked: str, missing: str | None) -> str:
    """Return "float32" or "bfloat16" for auto, float32 or bfloat16.

    missing: what keeps the device from computing bfloat16, None where it does. Raises ValueError where bfloat16 is
    asked for by name and missing.
    """
    if asked == "bfloat16" and missing:
        raise ValueError(f"train.precision=bfloat16: {missing}; use train.precision=auto, which is float32 here")
    if asked == "auto":
        return "float32" if missing else "bfloat16"
    return asked


def settle_training(config: Config, group: Group) -> Config:
    """Return the config with the precision that it trains in, one for all processes of the group, and log it.

    A run that is resumed keeps its own, and so does a sweep that goes on, for all its cells.

    Raises ValueError where that is bfloat16, which this machine has not, or where another one is asked for: a run in
    bfloat16 may go on in float32, by name, where there is no bfloat16.
    """
    asked, missing = config.train.precision, _missing_bfloat16(group)
    own = group.share_json(_own_precision(config) if group.writes else None)
    if own is not None:
        _require_own(config, own, missing)
    precision = own if own is not None and asked == "auto" else settle(asked, missing)
    why = "as asked" if asked != "auto" else "its own" if own else missing or "which this device computes natively"
    _log.info("precision: %s, %s", precision, why)
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})


def _missing_bfloat16(group: Group) -> str | None:
    """Return what keeps this device from computing bfloat16, or that of another process; None where all do."""
    texts = group.gather_texts(backend.why_no_bfloat16() or "")
    return next((text if group.size == 1 else f"rank {i}: {text}" for i, text in enumerate(texts) if text), None)


def _own_precision(config: Config) -> str | None:
    """That of the run or sweep that goes on; None where one begins."""
    run = RunFolder(config.run_folder)
    if not run.exists() or not (config.resume or config.sweep is not None):
        return None
    tree = run.read_config_tree()
    if (tree.get("sweep") is None) != (config.sweep is None):
        return None  # another kind, which is refused later
    own: str | None = tree.get("train", {}).get("precision")
    return own


def _require_own(config: Config, own: str, missing: str | None) -> None:
    folder, asked = config.run_folder, config.train.precision
    lost = own == "bfloat16" and missing
    if lost and asked != "float32":
        how = "go on in float32 with train.precision=float32"
        if config.sweep is not None:
            how = "start a new sweep under another name: all cells have one precision"
        raise ValueError(
            f"{folder}: it trains in bfloat16, and {missing}; continue on a device with bfloat16, or {how}"
        )
    if config.sweep is None and asked not in ("auto", own) and not lost:
        raise ValueError(
            f"{folder}: --resume with train.precision={asked}, but the run trains in {own}; use train.precision=auto, "
            "which keeps it, or start a new run under another name"
        )


class PredictionPrecision:
    """In which precision the networks of an evaluation predict, one for all processes of the group."""

    def __init__(self, group: Group) -> None:
        self._missing = _missing_bfloat16(group)
        self._speaks = group.writes
        self._found: list[str] = []

    def of(self, config: Config) -> str:
        """That of the run; float32, with a line for the first such run, where its bfloat16 is missing."""
        asked = config.train.precision
        if asked == "bfloat16" and self._missing:
            if self._speaks:
                _log.warning("train.precision=bfloat16: %s; predicting in float32", self._missing)
            self._speaks, asked = False, "float32"
        self._found.append(settle(asked, self._missing))
        return self._found[-1]

    @property
    def summary(self) -> str | list[str]:
        """For metrics.json: the precision, or those of an ensemble's members where they differ."""
        return self._found[0] if len(set(self._found)) == 1 else self._found
