"""Every config in configs/ loads, builds its network and trains one step."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from configs import Config
from engine.config import load_config
from engine.distributed.group import ALONE
from engine.runs.precision import settle_training
from engine.training.losses import build_loss
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep
from engine.training.weights.freezing import Freezing
from models import build_model
from studies.sweep.plan import make_plan

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_trains_a_step(path: Path) -> None:
    config = load_config(path, ["train.precision=float32"])
    assert config.name.split("/")[-1] == path.stem, "a run is found under its config's name"
    if config.sweep is not None:
        config = make_plan(config).runs[0].config
    x, y = make_batch(config)
    mx.random.seed(0)
    model = build_model(config.model.name, config.model.args, in_channels=x.shape[-1], num_outputs=3)
    model.train()
    freezing = Freezing(model, config.freeze)
    optimizer = build_optimizer(config.optim, 1000, model, freezing)
    step = TrainStep(model, optimizer, build_loss(config.loss, 3), config.train, config.optim, freezing=freezing)
    before = {path: mx.array(weight) for path, weight in tree_flatten(model.trainable_parameters())}
    result = step([{"x": x, "y": y}])
    assert np.isfinite(result.loss)
    assert result.grad_norm > 0
    after = dict(tree_flatten(model.trainable_parameters()))
    head = [path for path in before if path.endswith("weight") and before[path].shape[0] == 3]  # an output a class
    assert head
    assert not any(mx.array_equal(before[path], after[path]) for path in head), "the step left the weights alone"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_device_decides_its_precision(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config = load_config(path, [f"run.dir={tmp_path}"])
    assert config.train.precision == "auto"
    for fixture, precision in (("native_bfloat16", "bfloat16"), ("no_bfloat16", "float32")):
        request.getfixturevalue(fixture)
        settled = settle_training(config, ALONE)
        runs = [settled] if settled.sweep is None else [run.config for run in make_plan(settled).runs]
        assert {run.train.precision for run in runs} == {precision}


@pytest.mark.parametrize(
    ("name", "cells", "trained"),
    [
        ("channel_dropout", 31, 31),  # none, and kind × rate × place: 2 × 3 × 5
        ("channel_dropout_quick", 5, 5),
        ("channel_dropout_reduced", 8, 8),
        ("dropout_position", 13, 9),  # 2 × 2 × 3, of which after_norm is after_activation under leaky ReLU
        ("head_dropout", 13, 10),  # 2 × 3 × 2, of which the head's elements are channels
        ("head_dropout_quick", 5, 4),
    ],
)
def test_an_ablation_compares_with_none_and_differs_in_dropout_alone(name: str, cells: int, trained: int) -> None:
    plan = make_plan(load_config(FOLDER / "ablations" / f"{name}.yaml"))
    assert len(plan.cells) == cells
    assert len(plan.runs) == 3 * trained
    assert next(cell for cell in plan.cells if cell.name == plan.baseline).dropout == []
    assert {path for cell in plan.cells for path in cell.settings} <= {
        f"model.args.dropout.{key}" for key in ("kind", "rate", "places", "position")
    }


def make_batch(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Noise of the config's kind, as small as its network takes."""
    rng = np.random.default_rng(0)
    if config.task == "segmentation":
        size = tuple(2 * s for s in config.model.args.total_stride())
        return rng.standard_normal((1, *size, 1), dtype=np.float32), rng.integers(0, 3, (1, *size))
    size = tuple(min(n, 16) for n in config.data.input_size)
    channels = 1 if config.data.clip is None else config.data.clip.num_channels
    return rng.standard_normal((2, *size, channels), dtype=np.float32), rng.integers(0, 3, 2)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_its_head_states_command_and_result(path: Path) -> None:
    head = path.read_text().split("name:")[0]
    assert f"train.py --config configs/{path.relative_to(FOLDER)}" in head
    assert "Result" in head
