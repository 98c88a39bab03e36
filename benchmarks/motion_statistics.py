"""Classify clips by five numbers on their motion: the baseline that a video network has to beat.

python -m benchmarks.motion_statistics RUN [RUN ...] --output cases.csv
python -m studies.folds RUN [RUN ...] --baseline cases.csv

Each run is one fold of a classification of clips. A logistic regression is fitted to the fold's training clips and
predicts its validation clips. It sees only statistics of the differences of successive frames, neither the picture nor
the container.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.dataset import open_data
from data.files.clips import read_clip
from engine.config import check_config
from engine.runs.run_folder import RunFolder

FRAME_RATE = 10.0
SHORT_SIDE_PIXELS = 72
MOVING = 0.06  # a pixel that changes by more, of a range of 1, counts as moving


def motion_statistics(path: Path) -> np.ndarray:
    """(5,): of the absolute differences of successive grey frames at 10 frames a second, their mean, their 95th
    percentile, the share of pixels that move, and the spread and maximum over time of a frame's mean."""
    frames = read_clip(path, SHORT_SIDE_PIXELS, grey=True, rate=FRAME_RATE).frames
    if frames is None or len(frames) < 2:
        return np.zeros(5)
    change = np.abs(np.diff(frames.astype(np.float32) / 255, axis=0))
    by_frame = change.mean(axis=(1, 2, 3))
    return np.array(
        [change.mean(), np.percentile(change, 95), (change > MOVING).mean(), by_frame.std(), by_frame.max()]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of the folds' runs")
    parser.add_argument("--output", required=True, metavar="FILE", help="cases.csv to write")
    arguments = parser.parse_args()
    rows, statistics = [], {}
    for folder in arguments.runs:
        run = RunFolder.open(folder)
        config = check_config(run.read_config_tree(), where=str(run.config_path))
        data = open_data(config, statistics=run.read_json("statistics"), splits=run.read_json("splits"))
        parts = {split: data.cases(split) for split in ("train", "val")}
        for case in (*parts["train"], *parts["val"]):
            if case.id not in statistics:
                statistics[case.id] = motion_statistics(case.images[0])
        x = {split: np.stack([statistics[case.id] for case in cases]) for split, cases in parts.items()}
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(x["train"], [case.label for case in parts["train"]])
        rows += [(case.id, *p) for case, p in zip(parts["val"], model.predict_proba(x["val"]), strict=True)]
    with Path(arguments.output).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *(f"p({name})" for name in data.class_names)])
        writer.writerows((case, *(f"{p:.6g}" for p in row)) for case, *row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
