"""Every config in configs/ loads, builds its network and trains one step."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from configs import load_config
from engine.losses import build_loss
from engine.optim import build_optimizer
from engine.step import TrainStep
from models import build_model

FOLDER = Path(__file__).parent.parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_trains_a_step(path: Path) -> None:
    config = load_config(path, ["train.precision=float32"])
    assert config.name.split("/")[-1] == path.stem, "a run is found under its config's name"
    size = [2 * s for s in config.model.args.total_stride()]
    mx.random.seed(0)
    model = build_model(config.model.name, config.model.args, in_channels=1, num_outputs=3)
    model.train()
    step = TrainStep(model, build_optimizer(config.optim, 1000), build_loss(config.loss, 3), config.train, config.optim)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1, *size, 1), dtype=np.float32), rng.integers(0, 3, (1, *size))
    weights = mx.array(model.heads[0].weight)
    result = step([{"x": x, "y": y}])
    assert np.isfinite(result.loss)
    assert result.grad_norm > 0
    assert not mx.array_equal(model.heads[0].weight, weights), "the step left the weights alone"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_its_head_states_command_and_result(path: Path) -> None:
    head = path.read_text().split("name:")[0]
    assert f"train.py --config configs/{path.relative_to(FOLDER)}" in head
    assert "Result" in head
