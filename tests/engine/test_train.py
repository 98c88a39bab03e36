"""Training and evaluation from Python, which are those of train.py and evaluate.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.config import check_config, load_config
from engine.evaluate import evaluate
from engine.runs.run_folder import RunFolder
from engine.train import dry_run, train
from tests.runs import trained, write_config

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(
        tmp_path,
        "model.args.dropout.rate=0.3",
        "train={steps: 4, batch_size: 1, validate_every_steps: 2}",
        "evaluate.bootstrap_samples=20",
    )


def losses(run: RunFolder) -> list[float]:
    return [line["loss"] for line in run.read_metrics("train")]


def test_it_trains_and_goes_on_as_the_script_does(config: Path, tmp_path: Path) -> None:
    whole = trained(config, "name=whole")
    run = train(config, {"train.steps": 2})
    assert run.path == tmp_path / "runs" / "tiny"
    assert len(losses(run)) == 2
    same = train(load_config(config), {"name": "same", "data.root": tmp_path / "data"})
    assert losses(same) == losses(whole)
    assert same.checkpoint("last").resolve().name == "4"
    with pytest.raises(ValueError, match=r"same: this run exists already; continue it with --resume"):
        train(config, ["name=same"])
    assert len(losses(train(config, {"resume": True, "train.steps": 4}))) == 4


def test_a_dry_run_returns_its_report(config: Path, tmp_path: Path) -> None:
    lines = dry_run(load_config(config)).splitlines()
    assert lines[0].startswith("parameters  ")
    assert lines[-1] == f"batch       {tmp_path}/runs/tiny/batch.png"


def test_a_sweep_is_left_to_the_script(config: Path) -> None:
    tree = load_config(config).model_dump(mode="json")
    sweep = {"grid": {"model.args.dropout.rate": [0.1, 0.2]}, "seeds": [0]}
    with pytest.raises(ValueError, match=r"sweep: train\.py trains its runs, each in a process of its own"):
        train(check_config({**tree, "sweep": sweep}, "test"))


def test_evaluation_returns_what_it_writes(config: Path, tmp_path: Path) -> None:
    run = train(config, {"train.steps": 1})
    done = evaluate(run.path, "val", overrides={"evaluate.overlap": 0.25})
    assert done.output == run.evaluation("val")
    written = json.loads((done.output / "metrics.json").read_text())
    assert written["settings"]["overlap"] == 0.25
    assert written["dice"]["mean"] == done.metrics["dice"]["mean"]
    assert np.isfinite(written["dice"]["mean"])
    assert done.failures == []
    with pytest.raises(ValueError, match=r"loss\.name was fixed when"):
        evaluate(run.path, overrides={"loss.name": "dice"})
