"""Layouts that people have, from plan.py to evaluate.py: each trains, and its images are predicted without labels."""

import json
from pathlib import Path

import pytest

import evaluate
import train
from data.synthetic.phantoms import write_phantoms
from engine.config import load_config
from tests.make_layouts import make_layout
from tests.planning.take import planned
from tests.runs import Capture

pytestmark = pytest.mark.slow
OVERRIDES = {"values_4_7": ["data.label_map={4: 1, 7: 2}"]}


@pytest.mark.parametrize(
    "layout", ["patients", "visits", "bids", "flat", "no_json_tests", "msd_tests", "values_4_7", "few_slices"]
)
def test_a_layout_is_planned_trained_and_evaluated(tmp_path: Path, layout: str, capsys: Capture) -> None:
    phantoms = write_phantoms(tmp_path / "phantoms", cases=6, seed=0, shape=(14, 16, 15)).parent
    root = make_layout(layout, phantoms, tmp_path)
    file = planned(root, capsys, *OVERRIDES.get(layout, []))
    steps = [
        f"run.dir={tmp_path / 'runs'}",
        "train.steps=2",
        "optim.warmup_steps=0",
        "ops=mlx",
        "model.args.widths=[4, 8]",
    ]
    config = load_config(file, steps[:1])
    levels = {"strides": config.model.args.strides[:2], "kernels": config.model.args.kernels[:2]}
    steps += [f"model.args.{key}={json.dumps(value)}" for key, value in levels.items()]
    steps.append("model.args.deep_supervision=false")
    assert train.main(["--config", str(file), *steps]) == 0
    run, predicted = tmp_path / "runs" / layout, tmp_path / "predicted"
    assert evaluate.main(["--run", str(run)]) == 0
    scored = json.loads((run / "eval" / "val" / "metrics.json").read_text())
    assert 0 <= scored["dice"]["mean"] <= 1
    images = root / "imagesTr" if layout in ("no_json_tests", "msd_tests") else root
    assert evaluate.main(["--run", str(run), "--images", str(images), "--output", str(predicted)]) == 0
    names = {path.name for path in (predicted / "predictions").iterdir()}
    assert len(names) == (5 if layout in ("no_json_tests", "msd_tests") else 6)
