import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from configs.train_schema import LossConfig, OptimConfig, TrainConfig
from engine.losses import build_loss
from engine.mixup import Mixup
from engine.step import TrainStep, random_key, set_random_key


def test_blends_cases_by_one_weight() -> None:
    mx.random.seed(0)
    x = np.array(mx.random.normal((6, 2, 3, 4, 1)))
    mixed, partners, weight = (np.array(a) for a in Mixup(0.8)(mx.array(x)))
    assert sorted(partners.tolist()) == list(range(6))
    assert 0 < weight < 1
    np.testing.assert_allclose(mixed, weight * x + (1 - weight) * x[partners], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    mx.random.seed(1)
    mixup, x = Mixup(alpha), mx.zeros((2, 1))
    weights = np.array(mx.stack([mixup(x)[2] for _ in range(2000)]))
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_draws_are_those_of_the_seed_compiled_or_not() -> None:
    mixup, x = Mixup(0.5), mx.arange(8.0)[:, None]
    state = [mx.random.state]
    compiled = mx.compile(lambda a: mixup(a), inputs=state, outputs=state)
    drawn = []
    for form in (mixup, mixup, compiled):
        mx.random.seed(7)
        drawn.append([np.array(form(x)[0]) for _ in range(3)])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_allclose(drawn[0], drawn[2], rtol=1e-6)
    assert not np.array_equal(drawn[0][0], drawn[0][1])


def test_alpha_must_be_positive() -> None:
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
    model, loss = Mean(), build_loss(LossConfig(name="cross_entropy"), 3)
    x, y = mx.random.normal((5, 2, 2, 2, 1)), mx.array([0, 1, 2, 0, 1], dtype=mx.int32)
    key = random_key()
    mixed, partners, weight = Mixup(1.0)(x)
    logits = model(mixed)
    expected = weight * loss(logits, y)[0] + (1 - weight) * loss(logits, y[partners])[0]
    mx.eval(expected)
    assert 0.05 < weight.item() < 0.95
    set_random_key(key)
    step = TrainStep(model, optim.SGD(0.1), loss, TrainConfig(steps=1, mixup_alpha=1.0), OptimConfig())
    step.model.train()
    result = step([{"x": np.array(x), "y": np.array(y)}])
    assert result.loss == pytest.approx(expected.item(), rel=1e-6)
    assert result.parts["cross_entropy"] == pytest.approx(expected.item(), rel=1e-6)
