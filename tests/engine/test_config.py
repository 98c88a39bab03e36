"""What a stranger adds: a file for the thing, a line in its registry."""

import json
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from configs import Config, ConfigError
from configs.schema.model import NetworkArgs
from configs.schema.types import Count
from engine.config import check_config, load_config, schema_text
from engine.training.losses import build_loss
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep
from models import MODELS, Network, build_model


class ToyArgs(NetworkArgs):
    """One convolution on every second voxel, enlarged again."""

    segments: ClassVar[bool] = True
    width: Count = 4

    def total_stride(self) -> tuple[int, int, int]:
        return 2, 2, 2

    @property
    def downsamplings(self) -> int:
        return 1


class Toy(nn.Module):
    def __init__(self, in_channels: int, num_outputs: int, args: ToyArgs) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, args.width, 2, stride=2)
        self.drop = nn.Dropout3d(0.5)
        self.up = nn.ConvTranspose3d(args.width, num_outputs, 2, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.up(self.drop(nn.relu(self.conv(x))))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "toy", Network(Toy, ToyArgs))


def tree(**sections: Any) -> dict[str, Any]:
    base = {"name": "x", "data": {"root": "."}, "model": {"name": "toy"}, "train": {"steps": 9, "precision": "float32"}}
    return {**base, **sections}


def train_steps(config: Config, steps: int = 9) -> list[float]:
    """The losses of steps on one batch whose label is where the image is positive."""
    mx.random.seed(0)
    model = build_model(config.model.name, config.model.args, 1, 2)
    optimizer = build_optimizer(config.optim, steps)
    step = TrainStep(model, optimizer, build_loss(config.loss, 2), config.train, config.optim)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
    return [step([{"x": x, "y": (x[..., 0] > 0).astype(np.uint8)}]).loss for _ in range(steps)]


def test_a_network_is_one_file_and_one_line(toy: None, tmp_path: Path) -> None:
    config = check_config(tree(model={"name": "toy", "args": {"width": 8}}, optim={"learning_rate": 0.05}), "test")
    assert config.model.model_dump() == {"name": "toy", "args": {"width": 8}}
    assert check_config(config.model_dump(mode="json"), "test") == config
    losses = train_steps(config)
    assert losses[-1] < losses[0]
    assert "ToyConfig" in json.loads(schema_text())["$defs"]
    file = tmp_path / "toy.yaml"
    file.write_text("name: x\ndata: {root: .}\nmodel: {name: toy}\ntrain: {steps: 1}\n")
    assert load_config(file, ["model.args.width=5"]).model.args.model_dump() == {"width": 5}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": {"name": "toy", "args": {"widt": 1}}}, r"model\.args\.widt: unknown key; did you mean width\?"),
        ({"model": {"name": "toi"}}, r"model\.name: unknown, 'toi'; did you mean toy\?"),
        (
            {"data": {"root": ".", "patch_size_voxels": [4, 5, 4]}},
            r"patch_size_voxels\[1\]=5 must be divisible by 2 \(model toy has 1 downsamplings\); use 4 or 6",
        ),
        (
            {"task": "classification", "data": {"root": ".", "source": "csv"}},
            r"model\.name=toy segments; task=classification needs cnn3d, resnet3d, r3d_18, \.\.\.",
        ),
        ({"model": {"name": "cnn3d"}}, r"model\.name=cnn3d classifies; use unet3d or toy, or set task="),
        ({"loss": {"supervise_coarsest": False}}, r"deep supervision, and this network has one output"),
    ],
)
def test_checks_ask_a_network_that_was_added(toy: None, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(tree(**section), "test")


def test_a_network_that_is_not_registered_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"model\.name: unknown, 'toy'; known: unet3d, cnn3d, resnet3d, r3d_18"):
        check_config(tree(), "test")
