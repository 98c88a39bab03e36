"""train.py with frozen parameters, factors and a decay to the start: trained, resumed, rehearsed."""

import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import train
from engine.runs.run_folder import RunFolder
from tests.runs import refused, trained, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tunes run "before", whose encoder it thaws after two of four steps."""
    folder = tmp_path_factory.mktemp("freeze")
    config = write_config(
        folder,
        "name=tuned",
        "model.args={norm: batch, dropout: {kind: none}}",
        f"init={{from: {folder}/runs/before, checkpoint: last}}",
        "freeze={patterns: [encoder.*], thaw_at_step: 2}",
        "optim={learning_rate: 0.01, rate_factors: {heads.*: 5}, decay_to_start: 0.1}",
        "train.steps=4",
        "checkpoint={every_steps: 1, keep: 9}",
    )
    trained(config, "name=before", "init=null", "freeze=null", "optim.decay_to_start=null", "train.steps=1")
    return config


@pytest.fixture(scope="module")
def tuned(config: Path) -> RunFolder:
    return trained(config)


def _tensors(run: RunFolder, step: int, file: str = "model") -> dict[str, mx.array]:
    return mx.load(str(run.checkpoints / str(step) / f"{file}.safetensors"))


def test_the_encoder_is_trained_from_the_third_step_on(config: Path, tuned: RunFolder) -> None:
    start = _tensors(RunFolder.open(config.parent / "runs" / "before"), 1)
    for name, value in start.items():
        is_frozen = name.startswith("encoder.")
        assert mx.array_equal(_tensors(tuned, 2)[name], value) == is_frozen, name
        if not is_frozen or "running" in name or name.endswith("conv.weight"):
            assert not mx.array_equal(_tensors(tuned, 4)[name], value), name
    kept = {name: a for name, a in _tensors(tuned, 4, "optimizer").items() if name.endswith(".start")}
    assert kept
    for name, value in kept.items():
        parameter = re.sub(r"optimizer\.states\.\d+\.(.*)\.start", r"\1", name)
        assert mx.array_equal(value, start[parameter]), name


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(config: Path, tuned: RunFolder, step: int) -> None:
    other = RunFolder(config.parent / "again" / "tuned")
    shutil.copytree(tuned.path, other.path, symlinks=True)
    for later in range(step + 1, 5):
        shutil.rmtree(other.checkpoints / str(later))
    trained(config, f"run.dir={other.path.parent}", "--resume")
    for file in ("model", "optimizer"):
        expected, found = (_tensors(run, 4, file) for run in (tuned, other))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(np.array(found[name]), np.array(value), err_msg=f"{file}: {name}")
    shutil.rmtree(other.path)


def test_the_dry_run_tells_what_is_frozen_and_what_pattern_fits_nothing(config, tuned, capsys) -> None:
    assert train.main(["--config", str(config), "--dry-run", "name=dry"]) == 0
    printed = capsys.readouterr().out
    assert "frozen      58 of " in printed
    assert "parameters (encoder.*) and the statistics of 1 batch norms, until step 2\n" in printed
    said = refused(train, capsys, "--config", config, "name=wrong", "freeze=[encode.*]")
    assert "train.py: freeze.patterns: 'encode.*' matches no parameter of the model; did you mean encoder." in said
