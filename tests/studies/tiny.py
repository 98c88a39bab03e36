"""A sweep small enough to plan in milliseconds."""

from pathlib import Path
from typing import Any

from configs import Config
from configs.schema.load import merge
from engine.config import check_config

KIND, RATE, PLACES, POSITION = (f"model.args.dropout.{key}" for key in ("kind", "rate", "places", "position"))


def tiny_sweep(folder: Path, sweep: dict[str, Any] | None = None, **sections: Any) -> Config:
    """Two cells, none and channel, under seeds 0 and 1 unless told otherwise; runs of 4 steps."""
    tree = {
        "name": "study",
        "run": {"dir": str(folder)},
        "data": {"root": "nowhere", "patch_size_voxels": [8, 8, 8]},
        "model": {"name": "unet3d", "args": {"widths": [2, 4], "convolutions": 1}},
        "train": {"steps": 4, "batch_size": 1},
        "sweep": sweep or {"grid": {KIND: ["none", "channel"]}, "seeds": [0, 1]},
    }
    return check_config(merge(tree, sections), "study.yaml")
