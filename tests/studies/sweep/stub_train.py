"""Stands in for train.py: leaves a run's folder, or fails as the first word of the sweep's `ORDERS` says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

config = Path(sys.argv[sys.argv.index("--config") + 1])
overrides = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
study = config.parent
folder = study.parent / json.loads(overrides["name"])
orders = json.loads((study.parent / "orders.json").read_text()).get(str(folder.relative_to(study)), [])
print("train", json.dumps(sys.argv[1:]))


def save(step: int) -> None:
    checkpoint = folder / "checkpoints" / str(step)
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "state.json").write_text(
        json.dumps({"step": step, "files": {}, "position": {"step": step, "interval": {}}})
    )
    last = folder / "checkpoints" / "last"
    last.unlink(missing_ok=True)
    last.symlink_to(str(step))
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": step, "split": "train", "seconds": 8.0, "validation_seconds": 1.0})
    )


def stop(number: int, frame: object) -> None:
    save(2)
    sys.exit(143)


(folder / "config.yaml").write_text("name: stub\n")
(folder / "splits.json").write_text(json.dumps({"train": ["a", "b"], "val": ["c"]}))
resumed = (folder / "checkpoints" / "last").exists()
if "fail" in orders:
    print("12:34:56 train.py: step 2: loss nan")
    sys.exit(1)
if "give up" in orders:
    save(2)
    sys.exit(0)
if "interrupt" in orders and not resumed:
    signal.signal(signal.SIGTERM, stop)
    print("step 1/4", flush=True)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(20)
    sys.exit("nobody told me to stop")
save(4)
