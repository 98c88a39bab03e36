"""train.py with frozen parameters, factors and a decay to the start: trained, resumed, rehearsed."""

import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import train
from data.synthetic.phantoms import write_phantoms
from engine.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tunes run "before", whose encoder it thaws after two of four steps."""
    folder = tmp_path_factory.mktemp("freeze")
    write_phantoms(folder / "data", 5, seed=0)
    file = folder / "tiny.yaml"
    file.write_text(f"""
name: tuned
ops: mlx
run: {{dir: {folder / "runs"}}}
data:
  root: {folder / "data"}
  spacing_mm: [5, 5, 5]
  patch_size_voxels: [8, 8, 8]
  cache: {{folder: {folder / "cache"}}}
model: {{args: {{widths: [2, 4], convolutions: 1, norm: batch, dropout: {{kind: none}}}}}}
init: {{from: {folder / "runs/before"}, checkpoint: last}}
freeze: {{patterns: [encoder.*], thaw_at_step: 2}}
optim: {{learning_rate: 1e-2, rate_factors: {{"heads.*": 5}}, decay_to_start: 0.1}}
train: {{steps: 4, log_every_steps: 1}}
checkpoint: {{every_steps: 1, keep: 9}}
""")
    alone = ["name=before", "init=null", "freeze=null", "optim.decay_to_start=null", "train.steps=1"]
    assert train.main(["--config", str(file), *alone]) == 0
    return file


@pytest.fixture(scope="module")
def tuned(config: Path) -> RunFolder:
    assert train.main(["--config", str(config)]) == 0
    return RunFolder.open(config.parent / "runs" / "tuned")


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
    assert train.main(["--config", str(config), f"run.dir={other.path.parent}", "--resume"]) == 0
    for file in ("model", "optimizer"):
        expected, found = (_tensors(run, 4, file) for run in (tuned, other))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(np.array(found[name]), np.array(value), err_msg=f"{file}: {name}")
    shutil.rmtree(other.path)


def test_the_dry_run_tells_what_is_frozen(config: Path, tuned: RunFolder, capsys) -> None:
    assert train.main(["--config", str(config), "--dry-run", "name=dry"]) == 0
    printed = capsys.readouterr().out
    assert "frozen      58 of " in printed
    assert "parameters (encoder.*) and the statistics of 1 batch norms, until step 2\n" in printed


def test_a_pattern_for_nothing_is_a_mistake_of_the_config(config: Path, tuned: RunFolder, capsys) -> None:
    assert train.main(["--config", str(config), "name=wrong", "freeze=[encode.*]"]) == 2
    assert "train.py: freeze.patterns: 'encode.*' matches no parameter of the model; did you mean encoder." in (
        capsys.readouterr().err
    )
