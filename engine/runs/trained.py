"""A trained run opened to be evaluated, or to predict: its config and a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import Config
from configs.schema.load import Overrides
from engine.runs.pack import open_run
from engine.runs.precision import set_up_device
from engine.runs.run_config import read_config
from engine.runs.run_folder import DEFAULT_CHECKPOINT, RunFolder


@dataclass(frozen=True)
class Trained:
    """A run or a pack to predict with."""

    run: RunFolder
    config: Config  # with the overrides
    checkpoint: Path  # a folder, or the pack
    checkpoint_name: str  # as it was asked for

    @property
    def statistics(self) -> dict[str, Any]:
        """Those of the training split: class_names, num_channels, and what preparation takes."""
        facts: dict[str, Any] = self.run.read_json("statistics")
        return facts


Runs = Path | str | Sequence[Path | str] | Sequence[Trained]
"""A run's folder or a pack, or several, or several opened ones."""


def open_trained(runs: Runs, checkpoint: str | None = None, overrides: Overrides = ()) -> list[Trained]:
    """Open runs' folders and packs, and set the device up as the first one's config says.

    checkpoint: `best`, `last`, a step, or any path to one; None is `last`. Opened ones are returned as they are.

    Raises ValueError where there is no such run or checkpoint, and for an override of what training settled.
    """
    opened = []
    for path in [runs] if isinstance(runs, Path | str) else runs:
        if isinstance(path, Trained):
            opened.append(path)
            continue
        run = open_run(path)
        config = read_config(run, overrides)
        opened.append(Trained(run, config, run.checkpoint(checkpoint), checkpoint or DEFAULT_CHECKPOINT))
        if len(opened) == 1:
            set_up_device(config)
    return opened
