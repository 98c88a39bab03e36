from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from configs import Config
from engine.config import config_class
from engine.evaluation.members import Member, draw_members, predict_together, sample_seed
from models.layers.dropout import apply_dropout, held_masks
from tests.engine.doubles import Case


class Pointwise(nn.Module):
    """Sees each voxel alone, so that its prediction of a window is that of the whole volume."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 16, 1), nn.Conv3d(16, 3, 1)
        self.drop = nn.Dropout3d(0.5)

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(apply_dropout(self.drop, nn.relu(self.first(x)))) * 4


@dataclass(frozen=True)
class Grid:
    shape: tuple[int, ...]
    affine: np.ndarray


@dataclass(frozen=True)
class Prepared:
    volume: np.ndarray
    grid: Grid


@dataclass(frozen=True)
class Shifted:
    """Another preparation of the same case."""

    prepared: Prepared
    shift: float
    origin: float = 0.0

    def load(self, case: Case) -> Prepared:
        affine = self.prepared.grid.affine + np.diag([0, 0, 0, self.origin])
        return Prepared(self.prepared.volume + self.shift, Grid(self.prepared.grid.shape, affine))


@pytest.fixture
def prepared() -> Prepared:
    volume = np.random.default_rng(0).normal(size=(10, 9, 12, 1)).astype(np.float32)
    return Prepared(volume, Grid(volume.shape[:3], np.eye(4)))


@pytest.fixture
def model() -> Pointwise:
    mx.random.seed(0)
    network = Pointwise()
    network.eval()
    return network


def config(patch: int = 4, overlap: float = 0.5) -> Config:
    tree = {
        "name": "x",
        "data": {"root": ".", "patch_size_voxels": [patch] * 3},
        "model": {"args": {"widths": [2, 4]}},
        "train": {"steps": 1},
        "evaluate": {"overlap": overlap, "window_batch": 3},
    }
    return config_class().model_validate(tree)


def whole(model: nn.Module, prepared: Prepared, seed: int) -> np.ndarray:
    with held_masks(model, seed):
        return np.array(mx.softmax(model(mx.array(prepared.volume)[None]), axis=-1))[0]


def test_one_mask_is_held_over_all_windows_of_a_case(model: Pointwise, prepared: Prepared) -> None:
    members = draw_members(model, partial(held_masks, model), 4, seed=0)
    mean, maps = predict_together(members, Case(), prepared, config())
    samples = [whole(model, prepared, sample_seed(0, "case_1", number)) for number in range(4)]
    np.testing.assert_allclose(mean, np.mean(samples, axis=0), atol=2e-6)
    np.testing.assert_allclose(maps[..., 2], np.var(samples, axis=0).mean(-1), atol=2e-6)
    assert maps[..., 1].max() > 0.05
    assert np.abs(samples[0] - samples[1]).max() > 0.1


def test_the_same_seed_gives_the_same_draws_in_any_order(model: Pointwise, prepared: Prepared) -> None:
    def predict(case: str, seed: int) -> np.ndarray:
        members = draw_members(model, partial(held_masks, model), 2, seed)
        return predict_together(members, Case(case), prepared, config())[0]

    first, second = predict("a", 0), predict("b", 0)
    np.testing.assert_array_equal(predict("b", 0), second)
    np.testing.assert_array_equal(predict("a", 0), first)
    assert np.abs(first - second).max() > 0.05  # cases have draws of their own
    assert np.abs(first - predict("a", 1)).max() > 0.05
    seeds = {sample_seed(s, c, n) for s in range(3) for c in ("a", "1 a") for n in range(3)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(0, "case_1", 0) == 1947897183426671634  # the same for ever: so are the samples


def test_a_network_with_itself_is_that_network_and_knows_no_disagreement(model: Pointwise, prepared: Prepared) -> None:
    mean, maps = predict_together([Member(model)] * 3, Case(), prepared, config())
    expected = np.array(mx.softmax(model(mx.array(prepared.volume)[None]), axis=-1))[0]
    np.testing.assert_allclose(mean, expected, atol=2e-6)
    assert maps[..., 1].max() < 1e-6
    assert maps[..., 2].max() < 1e-12


def test_members_bring_their_own_preparation_on_one_grid(model: Pointwise, prepared: Prepared) -> None:
    other = Member(model, data=Shifted(prepared, 1.0), config=config(patch=8, overlap=0.0))
    mean, _ = predict_together([Member(model), other], Case(), prepared, config())
    alone = [
        predict_together([Member(model)], Case(), Prepared(prepared.volume + s, prepared.grid), config())[0]
        for s in (0, 1)
    ]
    np.testing.assert_allclose(mean, np.mean(alone, axis=0), atol=2e-6)
    members = [Member(model), Member(model, data=Shifted(prepared, 0.0, origin=1.0))]
    with pytest.raises(ValueError, match=r"prepare case case_1 on different grids.*give runs of one data\.spacing_mm"):
        predict_together(members, Case(), prepared, config())


def test_a_draw_ends_with_its_case(prepared: Prepared) -> None:
    open_draws: list[int] = []

    @contextmanager
    def hold(seed: int) -> Iterator[None]:
        open_draws.append(seed)
        try:
            yield
        finally:
            open_draws.remove(seed)

    def fail(x: mx.array) -> mx.array:
        raise ValueError("no prediction")

    with pytest.raises(ValueError, match="no prediction"):
        predict_together(draw_members(fail, hold, 2, 0), Case(), prepared, config())
    assert open_draws == []
