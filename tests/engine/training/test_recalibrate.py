"""Batch norms after dropout: the shift between training and evaluation, and its correction."""

import logging
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks.variance_shift import shifts
from configs import Config
from configs.schema.weights import FreezeConfig
from engine.runs.checkpoints import load_weights
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest
from engine.training.loop import fit, restore
from engine.training.losses import build_loss
from engine.training.optim import build_optimizer
from engine.training.progress import Position
from engine.training.recalibrate import recalibrate_norms
from engine.training.step import TrainStep
from engine.training.weights.freezing import Freezing
from models import build_model
from models.cnn3d import CNN3dArgs
from models.layers.heads import ClassifierDropout
from models.layers.norms import BatchNorm3d
from tests.engine.doubles import TinyData, assert_same, tiny_config

pytestmark = pytest.mark.slow

BODY = ClassifierDropout(rate=0.5, places=("body",))


class LabelledData(TinyData):
    """Batches of four 8³ volumes of one of two classes, which differ in size."""

    def batch(self, epoch: int, position: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([epoch, position])
        y = np.array([0, 1, 0, 1])
        x = rng.normal(size=(4, 8, 8, 8, 1)) + y.reshape(-1, 1, 1, 1, 1)
        return {"x": x.astype(np.float32), "y": y, "index": np.arange(4) + 4 * position}


def make_step(config: Config, freeze: FreezeConfig | None = None) -> TrainStep:
    mx.random.seed(config.seed)
    model = build_model("cnn3d", CNN3dArgs(widths=(8, 16, 32), norm="batch", dropout=BODY), 1, 2)
    freezing = Freezing(model, freeze)
    optimizer = build_optimizer(config.optim, config.train.steps or 10, model, freezing)
    return TrainStep(model, optimizer, build_loss(config.loss, 2), config.train, config.optim, freezing=freezing)


def classifier_config(folder: Any, **train: Any) -> Config:
    train = {"compile": "never", "validate_every_steps": 4, **train}
    return tiny_config(folder, loss={"name": "cross_entropy"}, train=train, checkpoint={"metric": "dice.mean"})


def batches(count: int) -> list[dict[str, np.ndarray]]:
    return [LabelledData().batch(0, i) for i in range(count)]


def test_dropout_shifts_the_variance_and_recalibration_brings_it_back(tmp_path) -> None:
    step = make_step(classifier_config(tmp_path))
    model, x = step.model, mx.array(np.concatenate([batch["x"] for batch in batches(16)]))
    model.train()
    for batch in 4 * batches(16):
        model(mx.array(batch["x"]))
        mx.eval(model.state)
    before = shifts(model, x)
    assert before[0] == pytest.approx(1, abs=0.1)  # nothing is dropped before the first one
    assert (before[1:] > 1.5).all()
    model.train()
    assert recalibrate_norms(step, batches(16)) == 3
    assert model.training
    np.testing.assert_allclose(shifts(model, x), 1, atol=0.1)


def test_statistics_are_the_mean_over_batches_of_raw_and_averaged_weights(tmp_path) -> None:
    step = make_step(classifier_config(tmp_path))
    for batch in batches(3):
        step([batch])
    weights = {name: np.array(a) for name, a in step.tensors()["model"].items()}
    key = mx.random.state[0].tolist()
    recalibrate_norms(step, batches(5))
    assert mx.random.state[0].tolist() == key
    assert step.average is not None
    for file, tensors in (("model", step.tensors()["model"]), ("ema", step.tensors()["ema"])):
        conv = tensors["blocks.0.conv.weight"]
        outputs = [np.array(mx.conv3d(mx.array(batch["x"]), conv, padding=1)) for batch in batches(5)]
        variance = np.mean([y.var((0, 1, 2, 3), ddof=1) for y in outputs], axis=0)
        np.testing.assert_allclose(np.array(tensors["blocks.0.norm.running_var"]), variance, rtol=1e-4, err_msg=file)
        mean = np.mean([y.mean((0, 1, 2, 3)) for y in outputs], axis=0)
        np.testing.assert_allclose(np.array(tensors["blocks.0.norm.running_mean"]), mean, atol=1e-5, err_msg=file)
    for name, value in weights.items():
        if "running" not in name:
            np.testing.assert_array_equal(np.array(step.tensors()["model"][name]), value, err_msg=name)
    norms = [layer for layer in step.model.modules() if isinstance(layer, BatchNorm3d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_frozen_statistics_stay(tmp_path) -> None:
    step = make_step(classifier_config(tmp_path), FreezeConfig(patterns=("blocks.0.*",)))
    step(batches(1))
    before = {name: np.array(a) for name, a in step.tensors()["model"].items()}
    assert recalibrate_norms(step, batches(2)) == 2
    after = step.tensors()["model"]
    np.testing.assert_array_equal(np.array(after["blocks.0.norm.running_var"]), before["blocks.0.norm.running_var"])
    assert (np.array(after["blocks.1.norm.running_var"]) != before["blocks.1.norm.running_var"]).any()
    assert not step.model.blocks[0].norm.training  # as the frozen one is in training
    assert step.model.blocks[1].norm.training


def train(config: Config, stop_at: int | None = None, scores: list[float] | None = None) -> tuple[RunFolder, Position]:
    """Train or resume the run of this config; asked to stop while the batches of a step are read."""
    run = RunFolder(config.run_folder)
    run = run if run.exists() else RunFolder.create(config)
    data, step = LabelledData(), make_step(config)
    position = restore(step, data, run)

    def validate(model: nn.Module) -> dict[str, float]:
        mx.eval(model(mx.ones((1, 8, 8, 8, 1))))
        return {"dice.mean": scores[position.validated_step // 4] if scores else 0.5}

    original = data.batch

    def batch(epoch: int, number: int) -> dict[str, np.ndarray]:
        if 5 * epoch + number == stop_at:
            run.stop_path.touch()
        return original(epoch, number)

    data.batch = batch  # type: ignore[method-assign]
    with StopRequest(run.stop_path) as stop:
        fit(step, data, run, config, position, stop, validate)
    return run, position


def statistics(run: RunFolder, file: str = "model") -> dict[str, np.ndarray]:
    arrays = mx.load(str(run.checkpoint("last") / f"{file}.safetensors"))
    return {name: np.array(a) for name, a in arrays.items() if "running" in name}


@pytest.mark.parametrize("stop_at", [6, 11])
def test_the_last_checkpoint_holds_them_and_a_resumed_run_the_same(tmp_path, caplog, stop_at: int) -> None:
    plain, _ = train(classifier_config(tmp_path / "plain"))
    config = classifier_config(tmp_path / "whole", recalibrate_norms=True)
    with caplog.at_level(logging.INFO, logger="mlx_volumes"):
        whole, position = train(config)
    assert "measured 3 batch norms again, without dropout, on the batches of 5 steps" in caplog.text
    assert position.recalibrated_step == 12
    stopped = classifier_config(tmp_path / "stopped", recalibrate_norms=True)
    _, position = train(stopped, stop_at)
    assert (position.step, position.recalibrated_step) == (stop_at + 1, 0)  # 12: the end, but for the statistics
    resumed, position = train(stopped)
    assert position.recalibrated_step == 12
    name = "blocks.1.norm.running_var"
    for file in ("model", "ema"):
        assert (statistics(whole, file)[name] != statistics(plain, file)[name]).any()
        assert_same(statistics(resumed, file), statistics(whole, file))
    model = build_model("cnn3d", CNN3dArgs(widths=(8, 16, 32), norm="batch", dropout=BODY), 1, 2)
    assert load_weights(model, resumed.checkpoint("last")) == "ema"
    found = dict(tree_flatten(model.parameters()))
    name = "blocks.2.norm.running_var"
    np.testing.assert_array_equal(np.array(found[name]), statistics(whole, "ema")[name])
    saved = (resumed.checkpoint("last") / "state.json").stat().st_mtime_ns
    train(stopped)  # nothing is left to do
    assert (resumed.checkpoint("last") / "state.json").stat().st_mtime_ns == saved


def test_a_run_that_stops_early_has_them_too(tmp_path) -> None:
    config = classifier_config(tmp_path, recalibrate_norms=True, early_stop_validations=1)
    run, position = train(config, scores=[0.5, 0.4, 0.3])
    assert (position.step, position.recalibrated_step) == (8, 8)
    assert run.checkpoint("last").resolve().name == "8"
