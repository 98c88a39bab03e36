"""A trained run as one file to hand on, and such files from strangers."""

from engine.runs.pack.archive import PackError
from engine.runs.pack.export import describe, export_run
from engine.runs.pack.packed_run import Pack, PackedRun, load_packed, open_run, read_pack, read_weights

__all__ = [
    "Pack",
    "PackError",
    "PackedRun",
    "describe",
    "export_run",
    "load_packed",
    "open_run",
    "read_pack",
    "read_weights",
]
