"""A network, data and a config small enough to train in milliseconds, for tests of the engine alone."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from configs import Config
from engine.config import config_class
from engine.training.losses import build_loss
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep
from engine.training.weights.freezing import Freezing
from models.layers.dropout import apply_dropout

needs_compiler = pytest.mark.skipif(
    mx.default_device().type == mx.DeviceType.cpu and shutil.which("g++") is None,
    reason="mx.compile on a CPU calls g++",
)


@dataclass(frozen=True)
class Case:
    id: str = "case_1"
    label: str | None = "label.nii"
    images: tuple[str, ...] = ("image.nii",)
    group: str | None = None


class TinyNet(nn.Module):
    """Conv3d, batch-norm-like running mean, Dropout3d, Conv3d: (N, D, H, W, 1) -> (N, D, H, W, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 4, 3, padding=1)
        self.drop = nn.Dropout3d(0.5)
        self.head = nn.Conv3d(4, 2, 1)
        self.running_mean = mx.zeros((4,))
        self.freeze(keys=["running_mean"], recurse=False)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.stem(x)
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * mx.stop_gradient(x).mean(axis=(0, 1, 2, 3))
        return self.head(apply_dropout(self.drop, nn.relu(x)))


class TinyStream:
    """One epoch of TinyData, made batch by batch."""

    def __init__(self, data: "TinyData", epoch: int, first_batch: int) -> None:
        self.seconds_waiting = 0.0
        self.closed = False
        self._batches = (data.batch(epoch, i) for i in range(first_batch, data.batches_per_epoch))

    def next(self) -> dict[str, np.ndarray] | None:
        self.seconds_waiting += 1e-6
        return next(self._batches, None)

    def close(self) -> None:
        self.closed = True


class TinyData:
    """Batches of two 4³ volumes, a function of epoch and position; the label is where the image is positive."""

    fingerprint = "tiny"
    batches_per_epoch = 5

    def __init__(self) -> None:
        self.streams: list[TinyStream] = []

    def batch(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng([epoch, position]).normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
        index = np.array([2 * position, 2 * position + 1])
        return {"x": x, "y": (x[..., 0] > 0).astype(np.uint8), "index": index}

    def train_stream(self, epoch: int, first_batch: int = 0) -> TinyStream:
        assert all(stream.closed for stream in self.streams)
        self.streams.append(TinyStream(self, epoch, first_batch))
        return self.streams[-1]


def tiny_config(folder: Path, **sections: dict[str, Any]) -> Config:
    """A config whose run lies in `folder`; 12 steps unless told otherwise."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "run": {"dir": str(folder)},
        "data": {"root": "nowhere"},
        "optim": {"learning_rate": 0.01, "ema_decay": 0.9},
        "train": {"steps": 12, "precision": "float32", "log_every_steps": 1},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return config_class().model_validate(tree)


def tiny_step(config: Config, seed: int = 0, loaded: Collection[str] = ()) -> TrainStep:
    mx.random.seed(seed)
    model = TinyNet()
    freezing = Freezing(model, config.freeze)
    optimizer = build_optimizer(config.optim, config.train.steps or 10, model, freezing, loaded)
    loss = build_loss(config.loss, 2)
    return TrainStep(model, optimizer, loss, config.train, config.optim, freezing=freezing)


def save(step: TrainStep, folder: Path) -> None:
    """Write what the step's `load` reads."""
    for file, arrays in step.tensors().items():
        mx.save_safetensors(str(folder / f"{file}.safetensors"), arrays)


def assert_goes_on(step: TrainStep, other: TrainStep, folder: Path, batches: Sequence[dict[str, np.ndarray]]) -> None:
    """`other`, whatever it did before, loads what `step` saves and goes on as that does, bit for bit."""
    save(step, folder)
    expected = [step([batch]) for batch in batches]
    other.load(folder)
    assert [other([batch]) for batch in batches] == expected
    assert_same(arrays_of(other), arrays_of(step))


def arrays_of(step: TrainStep) -> dict[str, np.ndarray]:
    return {f"{file}/{name}": np.array(a) for file, arrays in step.tensors().items() for name, a in arrays.items()}


def parameters_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Arrays of the same names and values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(np.array(found[name]), np.array(value), err_msg=name)
