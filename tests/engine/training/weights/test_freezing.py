"""Frozen parameters: which, until when, and how the optimiser treats them."""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_unflatten
from pydantic import ValidationError

from configs.schema.train import OptimConfig, TrainConfig
from configs.schema.weights import FreezeConfig
from engine.training.losses import StandardLossArgs, build_loss
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep
from engine.training.weights.freezing import Freezing
from models.layers.blocks import ConvBlock
from models.layers.norms import make_norm
from ops import backend
from tests.engine.doubles import TinyData, assert_goes_on, needs_compiler, parameters_of, tiny_config, tiny_step

DATA = TinyData()
RATE = 0.01
STEADY = {"schedule": "constant", "learning_rate": RATE, "weight_decay": 0.0, "clip_norm": None}


class _Net(nn.Module):
    """Two blocks with batch norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = [ConvBlock(1, 4, norm=make_norm("batch", 4), act=nn.ReLU())]
        self.decoder = [ConvBlock(4, 4, norm=make_norm("batch", 4), act=nn.ReLU())]
        self.head = nn.Conv3d(4, 2, 1)

    def __call__(self, x: mx.array) -> mx.array:
        for block in (*self.encoder, *self.decoder):
            x = block(x)
        return self.head(x)


def _step(freeze: object = None, steps: int = 10, optim: dict | None = None, compile: str = "auto") -> TrainStep:
    mx.random.seed(0)
    model = _Net()
    config = OptimConfig(**{**STEADY, **(optim or {})})
    freezing = Freezing(model, None if freeze is None else FreezeConfig.model_validate(freeze))
    optimizer = build_optimizer(config, steps, model, freezing)
    train = TrainConfig(steps=steps, compile=compile, precision="float32")
    step = TrainStep(model, optimizer, build_loss(StandardLossArgs(), 2), train, config, freezing=freezing)
    return step


def test_what_a_config_says_of_patterns_and_of_a_start(tmp_path: Path) -> None:
    whole = FreezeConfig(patterns=("encoder.*",), thaw_at_step=None, norm_statistics=True)
    assert FreezeConfig.model_validate(["encoder.*"]) == FreezeConfig.model_validate("encoder.*") == whole
    config = tiny_config(tmp_path)
    again = config.model_validate({**config.model_dump(mode="json", by_alias=True), "freeze": ["stem.*"]})
    assert again.freeze.patterns == ("stem.*",)
    with pytest.raises(ValidationError, match="at least 1 item"):
        FreezeConfig.model_validate([])
    with pytest.raises(ValidationError, match=r"optim\.decay_to_start requires init\.from; set it"):
        tiny_config(tmp_path, optim={"decay_to_start": 0.1})


def test_frozen_weights_and_statistics_stay_and_the_others_move(form: str) -> None:
    step = _step(["encoder.*"], optim={"ema_decay": 0.9, "weight_decay": 0.1})
    before = parameters_of(step.model)
    for i in range(3):
        step([DATA.batch(0, i)])
    after = parameters_of(step.model)
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith("encoder.")}
    average = step.average.state["average"]
    assert all(np.array_equal(before[name], np.array(average[name])) for name in still)
    assert not any(".encoder." in name for name in step.tensors()["optimizer"])


def test_statistics_are_held_as_in_evaluation_or_move_where_the_config_says_so() -> None:
    losses = {}
    for freeze in (None, ["encoder.*"], {"patterns": ["encoder.*"], "norm_statistics": False}):
        step = _step(freeze)
        norm = step.model.encoder[0].norm
        norm.running_mean, norm.running_var = mx.full((4,), 3.0), mx.full((4,), 7.0)
        losses[str(freeze)] = step([DATA.batch(0, 0)]).loss
        assert step.model.training
    free, held, measured = losses.values()
    assert free == measured
    assert abs(free - held) > 1e-3
    step = _step({"patterns": ["encoder.*"], "norm_statistics": False})
    before = parameters_of(step.model)
    step([DATA.batch(0, 0)])
    after = parameters_of(step.model)
    assert not np.array_equal(before["encoder.0.norm.running_mean"], after["encoder.0.norm.running_mean"])
    np.testing.assert_array_equal(before["encoder.0.norm.weight"], after["encoder.0.norm.weight"])


def test_thawed_weights_are_trained_from_their_step_on(form: str) -> None:
    """Their first update is as long as AdamW's first: their moments have their own count of steps."""
    step = _step({"patterns": ["encoder.*", "decoder.0.norm.*"], "thaw_at_step": 2}, optim={"schedule": "cosine"})
    states = [parameters_of(step.model)]
    for i in range(4):
        rate = step([DATA.batch(0, i)]).learning_rate
        states.append(parameters_of(step.model))
        if i == 2:
            moved = np.abs(states[3]["encoder.0.conv.weight"] - states[2]["encoder.0.conv.weight"])
            assert np.median(moved) == pytest.approx(rate, rel=1e-3)
    for name in ("encoder.0.conv.weight", "encoder.0.norm.running_mean", "decoder.0.norm.bias"):
        changes = [not np.array_equal(a[name], b[name]) for a, b in pairwise(states)]
        assert changes == [False, False, True, True], name


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_resumed_around_the_thaw_goes_on_bit_for_bit(tmp_path: Path, at: int) -> None:
    freeze = {"patterns": ["encoder.*"], "thaw_at_step": 2}
    step, other = _step(freeze), _step(freeze)
    for i in range(at):
        step([DATA.batch(0, i)])
    for i in range(4):
        other([DATA.batch(3, i)])  # thawed, which loading undoes where it was not yet
    assert_goes_on(step, other, tmp_path, [DATA.batch(0, i) for i in range(at, 5)])


@needs_compiler
def test_a_compiled_step_freezes_and_thaws(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    found = {}
    for compile in ("never", "always"):
        step = _step({"patterns": ["encoder.*"], "thaw_at_step": 2}, compile=compile)
        before = parameters_of(step.model)["encoder.0.conv.weight"]
        losses = [step([DATA.batch(0, i)]).loss for i in range(2)]
        np.testing.assert_array_equal(parameters_of(step.model)["encoder.0.conv.weight"], before)
        found[compile] = losses + [step([DATA.batch(0, i)]).loss for i in range(2, 5)]
        assert not np.array_equal(parameters_of(step.model)["encoder.0.conv.weight"], before)
    assert found["always"] == pytest.approx(found["never"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_frozen_run_equals_one_whose_gradients_are_masked(name: str, form: str) -> None:
    """Trained parameters move as if the rest were frozen by hand."""
    step = _step(["decoder.*"], optim={"name": name})
    by_hand = _step(None, optim={"name": name})
    by_hand.model.decoder[0].freeze()
    for i in range(2):
        by_hand.model.decoder[0].norm.eval()
        by_hand([DATA.batch(0, i)])
        step([DATA.batch(0, i)])
    for name, value in parameters_of(by_hand.model).items():
        np.testing.assert_allclose(parameters_of(step.model)[name], value, atol=1e-7, err_msg=name)


def test_frozen_convolutions_cost_no_weight_gradient(monkeypatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(backend, "_form", "onednn")
    from ops.cpu.onednn import convolution

    shapes = []
    real = convolution.backward_weights

    def count(g, *arrays) -> None:
        shapes.append(g.weight_shape)
        real(g, *arrays)

    monkeypatch.setattr(convolution, "backward_weights", count)
    _step(None)([DATA.batch(0, 0)])
    encoder, decoder = (4, 3, 3, 3, 1), (4, 3, 3, 3, 4)
    assert shapes == [decoder, encoder]  # the head is MLX's own layer
    shapes.clear()
    _step(["decoder.*"])([DATA.batch(0, 0)])
    assert shapes == [encoder]
    shapes.clear()
    _step(["encoder.*"])([DATA.batch(0, 0)])
    assert shapes == [decoder]


def test_what_is_frozen_as_text() -> None:
    assert str(Freezing(_Net())) == "nothing"
    frozen = Freezing(_Net(), FreezeConfig(patterns=("encoder.*",), thaw_at_step=1000))
    assert str(frozen) == "116 of 566 parameters (encoder.*) and the statistics of 1 batch norms, until step 1000"
    assert frozen.names == {"encoder.0.conv.weight", "encoder.0.norm.weight", "encoder.0.norm.bias"}
    assert not frozen.held_statistics
    frozen.set_step(0)
    assert frozen.held_statistics == {"encoder.0.norm.running_mean", "encoder.0.norm.running_var"}


@pytest.mark.parametrize(
    ("freeze", "optim", "message"),
    [
        (["encodr.*"], {}, r"freeze\.patterns: 'encodr\.\*' matches no .* did you mean .*encoder\.\*"),
        (["xyz"], {}, "'xyz' matches no parameter of the model; there are decoder, encoder, head"),
        (["*"], {}, r"freeze\.patterns=\['\*'\] match all parameters, so nothing would"),
        (
            {"patterns": ["encoder.*"], "thaw_at_step": 10},
            {},
            r"freeze\.thaw_at_step=10 must be below the run's 10 steps; null freezes",
        ),
        (None, {"rate_factors": {"heads.*": 10.0}}, r"rate_factors: 'heads\.\*' matches no .* did you mean head\.\*"),
    ],
)
def test_patterns_that_fit_nothing_or_everything_are_refused(freeze: object, optim: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _step(freeze, optim=optim)


def test_rates_have_factors(form: str) -> None:
    """AdamW's first update is the learning rate long; of two patterns that match, the last counts."""
    step = _step(None, optim={"rate_factors": {"*": 0.1, "head.*": 5.0, "decoder.*": 1.0}})
    before = parameters_of(step.model)
    result = step([DATA.batch(0, 0)])
    after = parameters_of(step.model)
    assert result.learning_rate == pytest.approx(RATE)
    for name, factor in {"encoder.0.norm.bias": 0.1, "head.weight": 5.0, "decoder.0.conv.weight": 1.0}.items():
        assert np.median(np.abs(after[name] - before[name])) == pytest.approx(factor * RATE, rel=1e-2), name


def test_factors_keep_kernels_and_biases_apart() -> None:
    step = _step(None, optim={"rate_factors": {"head.*": 5.0}, "weight_decay": 0.1})
    assert len(step.optimizer.optimizers) == 4
    assert [group.weight_decay for group in step.optimizer.optimizers] == [0.1, 0, 0.1, 0]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_loaded_kernels_decay_to_their_start(tmp_path: Path, form: str, name: str) -> None:
    """With a gradient of 0 a loaded kernel decays to its start by learning rate × strength, and a new one to 0."""
    optim = {"name": name, "momentum": 0.0, "decay_to_start": 2.0, "weight_decay": 1.0, "schedule": "constant"}
    config = tiny_config(tmp_path, init={"from": "weights"}, optim={**optim, "learning_rate": 0.1, "ema_decay": None})
    step = tiny_step(config, loaded={"stem.weight", "stem.bias"})
    start = parameters_of(step.model)
    moved = {key: value + 1 for key, value in start.items() if key != "running_mean"}
    step.model.update(tree_unflatten([(key, mx.array(value)) for key, value in moved.items()]))
    step._loss = lambda logits, y: ((0 * logits).sum(), {})
    step([DATA.batch(0, 0)])
    after = parameters_of(step.model)
    np.testing.assert_allclose(after["stem.weight"], start["stem.weight"] + 1 - 0.1 * 2, atol=1e-6)
    np.testing.assert_allclose(after["head.weight"], 0.9 * moved["head.weight"], atol=1e-6)
    np.testing.assert_array_equal(after["stem.bias"], moved["stem.bias"])
    kept = [name for name in step.tensors()["optimizer"] if name.endswith(".start")]
    assert kept == ["optimizer.states.2.stem.weight.start"]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_resumed_run_keeps_its_start_and_its_rates(tmp_path: Path, name: str) -> None:
    optim = {"name": name, "decay_to_start": 0.5, "rate_factors": {"head.*": 10.0}}
    config = tiny_config(tmp_path, init={"from": "weights"}, optim=optim)
    step, other = (tiny_step(config, seed, loaded={"stem.weight"}) for seed in (0, 5))
    for each in (step, other):
        each([DATA.batch(0, 0)])
    assert_goes_on(step, other, tmp_path, [DATA.batch(0, i) for i in range(1, 4)])
