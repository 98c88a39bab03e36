"""Kill training at random instants, resume it, and compare the end bit for bit with an uninterrupted run.

python -m tests.fuzz.kills [--times 100] [--seed 0] [--kinds segmentation clips sweep folds]

Each kind has its turn. A run is killed up to four times, from its start on, and then left to end.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml

from data.synthetic.moving_shapes import write_moving_shapes
from data.synthetic.phantoms import write_phantoms
from engine.runs.lock import LOCK_NAME
from engine.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
KINDS = ("segmentation", "clips", "sweep", "folds")
KILLS_OF_A_RUN = 4
_TIMES = ("seconds", "validation_seconds", "samples_per_second", "wait_share", "peak_memory_gb")


def write_configs(folder: Path) -> None:
    """Write data, and a config of each kind that ends within seconds."""
    write_phantoms(folder / "phantoms", 5, seed=0, shape=(24, 24, 24))
    write_moving_shapes(folder / "clips", clips=16, seed=0)
    shared = {"ops": "mlx", "train": {"log_every_steps": 1}, "checkpoint": {"every_steps": 3, "keep": 2}}
    volumes = {"root": str(folder / "phantoms"), "spacing_mm": [4, 4, 4], "patch_size_voxels": [8, 8, 8]}
    unet = {"args": {"widths": [2, 4], "convolutions": 1, "dropout": {"rate": 0.3}}}
    clip = {"frames": 4, "short_side_pixels": 16, "crop_pixels": [16, 16], "clips": 2}
    clips = {"source": "classes", "root": str(folder / "clips"), "split": {"folds": 2}, "clip": clip}
    few = {"steps": 30, "validate_every_steps": 10, **shared["train"]}
    trees = {
        "segmentation": {"data": volumes, "model": unet, "optim": {"ema_decay": 0.9}, "train": {**few, "steps": 100}},
        "clips": {
            "task": "classification",
            "data": clips,
            "model": {"name": "cnn3d", "args": {"widths": [4, 8]}},
            "train": {**few, "steps": 60, "batch_size": 4},
        },
        "sweep": {
            "data": volumes,
            "model": unet,
            "train": few,
            "sweep": {"grid": {"model.args.dropout.rate": [0.1, 0.4]}, "seeds": [0]},
        },
        "folds": {
            "data": {**volumes, "split": {"folds": 2}},
            "model": unet,
            "train": few,
            "sweep": {"cells": [{"name": "one", "model.args.dropout.rate": 0.2}], "seeds": [0], "folds": [0, 1]},
        },
    }
    for kind, tree in trees.items():
        cache = {"data": {**tree["data"], "cache": {"folder": str(folder / "cache")}}}
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump({**shared, **tree, **cache, "name": kind}))


def start(folder: Path, kind: str, runs: Path) -> subprocess.Popen[bytes]:
    """Begin the run or sweep below `runs`, or go on with it; its output is added to log.txt there."""
    resume = () if kind in ("sweep", "folds") else ("--resume",)
    command = [sys.executable, "train.py", "--config", str(folder / f"{kind}.yaml"), f"run.dir={runs}", *resume]
    runs.mkdir(exist_ok=True)
    with (runs / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def finish(folder: Path, kind: str, runs: Path) -> float:
    """Train to the end; return the seconds it took. Raises AssertionError with the log where it fails."""
    began = time.monotonic()
    code = start(folder, kind, runs).wait(300)
    assert code == 0, (runs / "log.txt").read_text()
    return time.monotonic() - began


def kill(process: subprocess.Popen[bytes], runs: Path, rng: random.Random) -> None:
    """Kill the process, and every second time what trains a sweep's run before it, which else saves and ends."""
    if rng.random() < 0.5:
        for path in runs.glob(f"*/*/*/{LOCK_NAME}"):
            holder = int(json.loads(path.read_text() or '{"process": 0}')["process"])
            shown = subprocess.run(
                ["ps", "-o", "args=", "-p", str(holder)], capture_output=True, text=True, check=False
            )
            if str(runs) in shown.stdout:  # the number may be another process' by now
                subprocess.run(["kill", "-9", str(holder)], check=False)
    process.send_signal(signal.SIGKILL)
    process.wait()


def outcome(runs: Path) -> dict[str, Any]:
    """Return all that must not depend on kills: metrics, weights and scores, by file."""
    found: dict[str, Any] = {}
    for config in sorted(runs.rglob("config.yaml")):
        run = RunFolder(config.parent)
        if run.has_json("sweep"):
            continue
        name = str(run.path.relative_to(runs))
        lines = [{key: value for key, value in line.items() if key not in _TIMES} for line in run.read_metrics()]
        found[f"{name}/metrics.jsonl"] = lines
        for file in sorted(run.checkpoint("last").glob("*.safetensors")):
            arrays = mx.load(str(file))
            assert isinstance(arrays, dict)
            found[f"{name}/{file.name}"] = {key: np.array(array).tobytes() for key, array in arrays.items()}
        for file in sorted(run.path.glob("eval/*/cases.csv")):
            found[str(file.relative_to(runs))] = file.read_bytes()
    assert found
    return found


def compare(expected: dict[str, Any], found: dict[str, Any], runs: Path) -> None:
    """Raise AssertionError that names the first file that differs."""
    assert found.keys() == expected.keys(), (runs, found.keys() ^ expected.keys())
    for name, value in expected.items():
        assert found[name] == value, f"{runs / name} differs from that of an uninterrupted run"


def attack(folder: Path, times: int, kinds: Sequence[str], seed: int) -> Counter[str]:
    """Kill `times` times in all, in `folder`; return how often each kind was. Raises AssertionError as `compare`."""
    rng, kills = random.Random(seed), Counter[str]()
    write_configs(folder)
    took = {kind: finish(folder, kind, folder / f"whole_{kind}") for kind in kinds}
    expected = {kind: outcome(folder / f"whole_{kind}") for kind in kinds}
    number = 0
    while kills.total() < times:
        kind, runs = kinds[number % len(kinds)], folder / f"killed_{number}"
        killed = 0
        while killed < min(KILLS_OF_A_RUN, times - kills.total()):
            began = time.monotonic()
            process = start(folder, kind, runs)
            try:
                process.wait(rng.uniform(0, took[kind]))
                took[kind] = min(took[kind], time.monotonic() - began)  # the machine is quicker than it was
                break
            except subprocess.TimeoutExpired:
                kill(process, runs, rng)
                killed += 1
        finish(folder, kind, runs)
        compare(expected[kind], outcome(runs), runs)
        kills[kind] += killed
        number += 1
        print(f"{kills.total()} kills: {kind}, killed {killed} times, equals an uninterrupted one", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        kills = attack(Path(name), arguments.times, arguments.kinds, arguments.seed)
    print(f"{kills.total()} kills, none of which changed an end: {dict(kills)}")


if __name__ == "__main__":
    main()
