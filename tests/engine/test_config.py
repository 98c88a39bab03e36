"""What a stranger adds: a file for the thing, a line in its registry."""

import ast
import json
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from configs import Config, ConfigError
from configs.schema import load
from configs.schema.augment import ChangeArgs
from configs.schema.data import DataConfig
from configs.schema.model import NetworkArgs
from configs.schema.train import LossArgs
from configs.schema.types import Count, NonNegative
from data.layouts.cases import Case, Listing
from data.layouts.registry import SOURCES, Layout, find_cases
from data.sampling.augment import Augment
from data.sampling.intensity_changes import CHANGES, Change
from engine.config import check_config, load_config, schema_text
from engine.training.losses import LOSSES, LossKind, Prediction, build_loss, dice
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
    train = {"steps": 9, "precision": "float32", "compile": "never"}
    return {"name": "x", "data": {"root": "."}, "model": {"name": "toy"}, "train": train, **sections}


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


class BrierArgs(LossArgs):
    """Squared error of the probabilities, and with `overlap` above 0 a Dice loss of sums."""

    overlap: NonNegative = 0.0
    batch_dice: bool = False
    include_background: bool = False
    smooth: NonNegative = 1.0

    def term_weight(self, term: str) -> float:
        return self.overlap if term == "dice" else 1.0


def brier(prediction: Prediction, args: BrierArgs) -> mx.array:
    is_class = prediction.y[..., None] == mx.arange(prediction.logits.shape[-1])
    return mx.square(mx.softmax(prediction.logits, axis=-1) - is_class).mean()


@pytest.fixture
def brier_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "brier", LossKind(BrierArgs, ("voxels", "class"), {"brier": brier, "dice": dice}))


def test_a_loss_is_one_file_and_one_line(toy: None, brier_loss: None) -> None:
    config = check_config(tree(loss={"name": "brier", "overlap": 0.5}, optim={"learning_rate": 0.05}), "test")
    assert check_config(config.model_dump(mode="json"), "test") == config
    assert isinstance(config.loss, BrierArgs)
    logits, y = mx.log(mx.array([[0.8, 0.2], [0.4, 0.6]])).reshape(1, 2, 1, 1, 2), mx.array([0, 1]).reshape(1, 2, 1, 1)
    value, parts = build_loss(config.loss, 2)(logits, y)
    by_hand = {"brier": (0.2**2 + 0.4**2) / 2, "dice": 1 - (2 * 0.6 + 1) / (1.8 + 1)}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(by_hand, abs=1e-6)
    assert value.item() == pytest.approx(by_hand["brier"] + 0.5 * by_hand["dice"], abs=1e-6)
    losses = train_steps(config)
    assert losses[-1] < losses[0]
    plain = check_config(tree(loss={"ignore_label": 255}), "test").loss  # the first, where none is named
    assert (plain.name, plain.ignore_label) == ("dice_ce", 255)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "brier", "overlp": 1}, r"loss\.overlp: unknown key; did you mean overlap\?"),
        ({"name": "brier", "overlap": -1}, r"loss\.overlap: input should be greater than or equal to 0; got -1"),
        ({"name": "brir"}, r"loss\.name: unknown, 'brir'; did you mean brier\?"),
        ({"name": "dice", "overlap": 1}, r"loss\.overlap: unknown key; known: batch_dice, ce_weight, class_weights"),
    ],
)
def test_mistakes_in_a_loss_that_was_added(brier_loss: None, loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(tree(model={}, loss=loss), "test")


def test_a_loss_that_was_added_is_named_where_it_fits(brier_loss: None) -> None:
    data = {"root": ".", "source": "csv"}
    with pytest.raises(ConfigError, match=r"loss\.name=dice is for label volumes; use cross_entropy or focal or brier"):
        check_config(tree(task="classification", data=data, model={"name": "cnn3d"}, loss={"name": "dice"}), "test")


def find_twice(config: DataConfig) -> Listing:
    return Listing((Case("a", (config.root,)), Case("b", (config.root,))), ("background", "organ"))


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "twice", Layout("anything at all", find_twice, needs="twice.txt"))


def test_a_layout_is_one_file_and_one_line(twice: None, tmp_path: Path) -> None:
    data = check_config(tree(model={}, data={"source": "twice", "root": str(tmp_path)}), "test").data
    expected = r"no twice\.txt, which data\.source=twice needs; .*; twice: anything at all\)"
    with pytest.raises(ValueError, match=expected):
        find_cases(data)
    (tmp_path / "twice.txt").touch()
    assert [case.id for case in find_cases(data).cases] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"data\.source: input should be 'msd', .* or 'twice'; got 'thrice'"):
        check_config(tree(model={}, data={"source": "thrice", "root": "."}), "test")
    with pytest.raises(ConfigError, match=r"source=twice gives label volumes; .* takes classes, medmnist or csv"):
        check_config(tree(task="classification", model={}, data={"source": "twice", "root": "."}), "test")


class InvertArgs(ChangeArgs):
    """Take the image from a constant."""

    constant: float = 1.0


def invert(patch: np.ndarray, args: InvertArgs, rng: np.random.Generator) -> np.ndarray:
    return np.float32(args.constant) - patch


def test_a_change_of_intensity_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGES, "invert", Change(InvertArgs, invert))

    def changed(section: dict[str, float]) -> np.ndarray:
        data = {"root": ".", "augment": {"invert": section}}
        augment = Augment(check_config(tree(model={}, data=data), "test").data.augment)
        return augment.change_intensities(np.full((4, 4, 4, 1), 3, np.float32), np.random.default_rng(0))

    np.testing.assert_array_equal(changed({"probability": 1, "constant": 5}), 2)
    np.testing.assert_array_equal(changed({}), 3)
    with pytest.raises(ConfigError, match=r"data\.augment\.invert\.const: unknown key; did you mean constant\?"):
        changed({"const": 5})


def test_the_schema_names_nothing_that_is_registered() -> None:
    registered = {*MODELS, *LOSSES, *SOURCES, *CHANGES} - {"classes"}  # which is a target, too
    for file in sorted((Path(__file__).parents[2] / "configs" / "schema").glob("*.py")):
        named = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not named & registered, file


def test_configs_are_checked_once_the_choices_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_config_class", None)
    with pytest.raises(AssertionError, match=r"import engine\.config: it tells which networks, losses and sources"):
        load.check_config(tree(), "test")
