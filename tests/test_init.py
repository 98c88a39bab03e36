"""train.py from other weights: on one class, then on two; resumed; by two processes."""

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import train
from engine.runs.run_folder import RunFolder
from tests import processes
from tests.runs import refused, trained, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init")
    return write_config(
        folder,
        "name=tuned",
        "model.args.dropout.kind=none",
        "optim={learning_rate: 0.01, ema_decay: 0.9}",
        f"init={{from: {folder}/runs/whole, checkpoint: last, head: by_name}}",
    )


@pytest.fixture(scope="module")
def names(config: Path) -> list[str]:
    return list(json.loads((config.parent / "data" / "dataset.json").read_text())["labels"].values())


@pytest.fixture(scope="module")
def whole(config: Path, names: list[str]) -> RunFolder:
    """A run on all structures as one class."""
    merged = f"data.label_map={{{', '.join(f'{i}: 1' for i in range(1, len(names)))}}}"
    return trained(config, "init=null", "name=whole", merged, f"data.class_names=[{names[0]}, structure]")


@pytest.fixture(scope="module")
def tuned(config: Path, whole: RunFolder) -> RunFolder:
    return trained(config)


def test_the_run_keeps_what_became_of_each_tensor(whole: RunFolder, tuned: RunFolder, names: list[str]) -> None:
    kept = tuned.read_json("init")
    assert kept["from"] == str(whole.path)
    assert (kept["step"], kept["weights"]) == (2, "ema")
    assert kept["class_names"] == [names[0], "structure"]
    rows = {row["name"]: row for row in kept["tensors"]}
    assert rows["heads.0.weight"] == {
        "name": "heads.0.weight",
        "what": "adapted",
        "network": [len(names), 1, 1, 1, 2],
        "weights": [2, 1, 1, 1, 2],
        "how": f"classes: {names[0]}",
    }
    assert {row["what"] for name, row in rows.items() if not name.startswith("heads")} == {"loaded"}


def test_the_first_step_begins_at_the_average_of_the_other_run(config: Path, whole: RunFolder) -> None:
    """With a learning rate of next to nothing the weights and their average stay what was loaded."""
    run = trained(config, "name=still", "optim.learning_rate=1e-20")
    average = mx.load(str(whole.checkpoint("last") / "ema.safetensors"))
    for file in ("model", "ema"):
        found = mx.load(str(run.checkpoint("last") / f"{file}.safetensors"))
        for name, value in found.items():
            if not name.startswith("heads"):
                np.testing.assert_allclose(np.array(value), np.array(average[name]), rtol=1e-6, err_msg=name)


def test_a_resumed_run_does_not_begin_again(config: Path, whole: RunFolder, caplog) -> None:
    """Nor needs it the weights: they have gone away meanwhile."""
    gone = config.parent / "gone.safetensors"
    gone.write_bytes((whole.checkpoint("last") / "ema.safetensors").read_bytes())
    common = ["name=halved", f"init.from={gone}", "init.checkpoint=best", "init.head=new", "optim.schedule=constant"]
    run = trained(config, *common, "train.steps=1")
    gone.unlink()
    written = (run.path / "init.json").read_text()
    caplog.clear()
    trained(config, *common, "--resume")
    assert "resumed from" in caplog.text
    assert "heads.0.weight" not in caplog.text
    assert (run.path / "init.json").read_text() == written
    assert train.main(["--config", str(config), *common, "name=anew"]) == 2


def test_the_dry_run_prints_the_table(config: Path, whole: RunFolder, capsys) -> None:
    assert train.main(["--config", str(config), "--dry-run", "name=dry", "init.head=new"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"encoder\.0\.blocks\.0\.conv\.weight +loaded +\(2, 3, 3, 3, 1\) +\(2, 3, 3, 3, 1\)\n", printed)
    assert "0 adapted, 2 new, 0 unused; weights of" in printed
    said = refused(train, capsys, "--config", config, "--dry-run", "name=dry", "init.head=null")
    assert "heads.0.weight: the network has" in said
    said = refused(train, capsys, "--config", config, "name=new", "init.from=nowhere", "data.root=nowhere_either")
    assert "train.py: init.from=nowhere: no such file or folder" in said


def test_two_processes_begin_where_one_does(config: Path, tuned: RunFolder, tmp_path: Path) -> None:
    processes.train(tmp_path, 2, config)
    found, expected = (run.read_metrics("train")[0]["loss"] for run in (RunFolder(tmp_path / "tuned"), tuned))
    assert found == pytest.approx(expected, rel=1e-4)


def test_two_processes_end_together_where_weights_do_not_fit(config: Path, whole: RunFolder, tmp_path: Path) -> None:
    ended = processes.train(tmp_path, 2, config, "init.head=null", codes=[2, 1])
    assert "heads.0.weight: the network has" in ended[0][2]
    assert ended[1][2] == ""
