from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from configs.schema.train import OptimConfig, TrainConfig
from engine.training.losses import StandardLossArgs, build_loss
from engine.training.mixup import Mixup
from engine.training.step import TrainStep
from models.layers.dropout import apply_dropout
from ops import backend
from tests.engine.doubles import assert_goes_on, needs_compiler

FORMS = ["never", pytest.param("always", marks=needs_compiler)]


def test_blends_cases_by_one_weight() -> None:
    mx.random.seed(0)
    x = np.array(mx.random.normal((6, 2, 3, 4, 1)))
    mixed, partners, weight = (np.array(a) for a in Mixup(0.8)(mx.array(x)))
    assert sorted(partners.tolist()) == list(range(6))
    assert 0 < weight < 1
    np.testing.assert_allclose(mixed, weight * x + (1 - weight) * x[partners], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    mixup, x = Mixup(alpha, seed=1), mx.zeros((2, 1))
    weights = np.array(mx.stack([mixup(x)[2] for _ in range(2000)]))
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_draws_are_those_of_the_seed_compiled_or_not() -> None:
    x = mx.arange(8.0)[:, None]
    drawn = []
    for seed, is_compiled in ((7, False), (7, False), (7, True), (8, False)):
        mixup = Mixup(0.5, seed)
        form = mx.compile(mixup, inputs=mixup.state, outputs=mixup.state) if is_compiled else mixup
        drawn.append([np.array(form(x)[0]) for _ in range(3)])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_allclose(drawn[0], drawn[2], rtol=1e-6)
    assert not np.array_equal(drawn[0][0], drawn[0][1])
    assert not np.array_equal(drawn[0], drawn[3])


def test_processes_share_a_state_and_draw_each_their_own() -> None:
    first, second = Mixup(1.0, rank=0, world=2), Mixup(1.0, rank=1, world=2)
    x = mx.arange(16.0)[:, None]
    (_, partners, weight), (_, others, other) = first(x), second(x)
    assert partners.tolist() != others.tolist()
    assert weight.item() != other.item()
    assert first.state["key"].tolist() == second.state["key"].tolist()
    with pytest.raises(ValueError, match="mixup needs an alpha above 0; got 0"):
        Mixup(0)


class Mean(nn.Module):
    """Logits from the mean voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc(x.mean(axis=(1, 2, 3)))


def test_a_step_minimises_the_blended_loss() -> None:
    mx.random.seed(3)
    model, loss = Mean(), build_loss(StandardLossArgs(name="cross_entropy"), 3)
    x, y = mx.random.normal((5, 2, 2, 2, 1)), mx.array([0, 1, 2, 0, 1], dtype=mx.int32)
    mixed, partners, weight = Mixup(1.0, seed=4)(x)
    logits = model(mixed)
    expected = weight * loss(logits, y)[0] + (1 - weight) * loss(logits, y[partners])[0]
    mx.eval(expected)
    assert 0.05 < weight.item() < 0.95
    train = TrainConfig(steps=1, mixup_alpha=1.0, precision="float32")
    step = TrainStep(model, optim.SGD(0.1), loss, train, OptimConfig(), seed=4)
    step.model.train()
    result = step([{"x": np.array(x), "y": np.array(y)}])
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    assert result.parts["cross_entropy"] == pytest.approx(expected.item(), rel=1e-6)


class Dropping(Mean):
    """The kind of its dropout decides which random numbers it draws; `look` receives its input."""

    def __init__(self, kind: str, look: Callable[[mx.array], object]) -> None:
        super().__init__()
        self.look = look
        self.drop = {"element": nn.Dropout(0.5), "channel": nn.Dropout3d(0.5), "none": nn.Identity()}[kind]

    def __call__(self, x: mx.array) -> mx.array:
        self.look(x)
        return super().__call__(apply_dropout(self.drop, x))


def make_step(kind: str, compiled: str = "never", seed: int = 3, look: Callable[[mx.array], object] = id) -> TrainStep:
    mx.random.seed(0)
    model = Dropping(kind, look)
    train = TrainConfig.model_validate({"steps": 9, "mixup_alpha": 1.0, "compile": compiled, "precision": "float32"})
    loss = build_loss(StandardLossArgs(name="cross_entropy"), 3)
    return TrainStep(model.train(), optim.SGD(0.1), loss, train, OptimConfig(), seed=seed)


def batch(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"x": rng.normal(size=(5, 2, 2, 2, 1)).astype(np.float32), "y": np.array([0, 1, 2, 0, 1], np.int32)}


def test_networks_with_other_dropout_see_the_same_blends() -> None:
    def blends(kind: str) -> np.ndarray:
        seen: list[np.ndarray] = []
        step = make_step(kind, look=lambda x: seen.append(np.array(x)))
        for number in range(4):
            step([batch(number)])
        return np.stack(seen)

    undropped = blends("none")
    np.testing.assert_array_equal(blends("element"), undropped)
    np.testing.assert_array_equal(blends("channel"), undropped)
    assert not np.array_equal(undropped[0], batch(0)["x"])


@pytest.mark.parametrize("compiled", FORMS)
def test_a_resumed_step_draws_what_it_would_have_drawn(tmp_path: Path, monkeypatch, compiled: str) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    step, other = make_step("channel", compiled), make_step("channel", compiled, seed=9)
    for number in range(3):
        step([batch(number)])
    other([batch(8)])
    assert_goes_on(step, other, tmp_path, [batch(number) for number in range(3, 6)])
    assert "mixup.key" in step.tensors()["optimizer"]


@needs_compiler
def test_a_compiled_step_blends_as_an_uncompiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_form", "mlx")
    losses = {}
    for compiled in ("never", "always"):
        step = make_step("none", compiled)
        losses[compiled] = [step([batch(number)]).loss for number in range(4)]
    assert losses["always"] == pytest.approx(losses["never"], rel=1e-5)


def test_a_checkpoint_without_a_key_of_its_own_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = make_step("none")
    start = step.tensors()["optimizer"]["mixup.key"].tolist()
    step([batch(0)])
    for file, arrays in step.tensors().items():
        kept = {name: array for name, array in arrays.items() if name != "mixup.key"}
        mx.save_safetensors(str(tmp_path / f"{file}.safetensors"), kept)
    other = make_step("none")
    other.load(tmp_path)
    assert "an older version wrote it, without mixup.key; blends are drawn from the seed" in caplog.text
    assert other.tensors()["optimizer"]["mixup.key"].tolist() == start
