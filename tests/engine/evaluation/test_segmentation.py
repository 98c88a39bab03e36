from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from configs import Config
from engine.config import config_class
from engine.evaluation.cases import Failure, evaluating, evenly_spaced, make_predict
from engine.evaluation.labelling import Labelling
from engine.evaluation.members import Member
from engine.evaluation.segmentation import CaseResult, evaluate_cases, make_validation
from engine.training.step import random_key
from models import build_model
from models.layers.dropout import held_masks
from models.unet3d import Dropout, UNet3dArgs
from ops import backend, memory
from tests.engine.doubles import Case, needs_compiler

CLASS_NAMES = ("background", "left", "right")


@dataclass(frozen=True)
class Grid:
    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0)


@dataclass(frozen=True)
class Prepared:
    volume: np.ndarray
    label: np.ndarray
    grid: Grid
    source_grid: Grid


CLASSES = Labelling(("background", "a", "b"))


@dataclass
class Data:
    """Cases whose image is their label; `shrunk` prepares them at half the resolution."""

    shrunk: bool = False
    broken: Sequence[str] = ()
    loaded: list[str] = field(default_factory=list)

    def labels(self, case: Case) -> np.ndarray:
        rng = np.random.default_rng(int(case.id))
        return rng.integers(0, 3, size=(5, 6, 4)).repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.uint8)

    def load(self, case: Case) -> Prepared:
        if case.id in self.broken:
            raise ValueError("the file ends early")
        self.loaded.append(case.id)
        label = self.labels(case)
        source = Grid(label.shape, np.eye(4))
        grid = Grid((5, 6, 4), np.diag([2, 2, 2, 1.0])) if self.shrunk else source
        label = label[::2, ::2, ::2] if self.shrunk else label
        return Prepared(label[..., None].astype(np.float32), label, grid, source)

    class_names = ("background", "a", "b")
    num_outputs = 3

    def shapes(self, case: Case) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        return (10, 12, 8), (5, 6, 4) if self.shrunk else (10, 12, 8)

    def restore_slabs(self, prepared: Prepared, probabilities: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        values = self.restore_maps(prepared, probabilities)
        yield from ((first, values[first : first + 3]) for first in range(0, len(values), 3))

    def restore_maps(self, prepared: Prepared, maps: np.ndarray) -> np.ndarray:
        factor = 2 if self.shrunk else 1
        return maps.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)

    def read_label(self, case: Case) -> tuple[np.ndarray, tuple[float, float, float]]:
        return self.labels(case), (2.0, 1.0, 1.0)


class Threshold(nn.Module):
    """Sees the class in the image's value, as it stands; `blind` to the last class on request."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.scale = mx.array(4.0)
        self.norm = nn.BatchNorm(1)
        self.drop = nn.Dropout3d(0.9)
        self.blind = blind

    def __call__(self, x: mx.array) -> mx.array:
        if self.training:
            self.norm(x.reshape(-1, 1))
        x = self.drop(x)
        classes = mx.array([0.0, 1.0, 9.0 if self.blind else 2.0])
        return -self.scale * (x - classes) ** 2


def config(**evaluate: object) -> Config:
    return config_class().model_validate(
        {
            "name": "test",
            "data": {"root": Path("."), "patch_size_voxels": [8, 8, 8]},
            "train": {"steps": 1, "precision": "float32"},
            "evaluate": {"bootstrap_samples": 50, **evaluate},
        }
    )


def cases(count: int) -> list[Case]:
    return [Case(str(number)) for number in range(count)]


def evaluate(
    data: Data, which: list[Case], *save: Callable[..., None], blind: bool = False, **settings: object
) -> tuple[list[CaseResult], list[Failure]]:
    model = Threshold(blind)
    with evaluating(model):
        return evaluate_cases([Member(make_predict(model, "float32"))], data, which, config(**settings), CLASSES, *save)


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_perfect_network_scores_one_on_the_source_grid(shrunk: bool) -> None:
    results, failures = evaluate(Data(shrunk), cases(2))
    assert not failures
    assert [result.id for result in results] == ["0", "1"]
    assert [[score["dice"] for score in result.scores] for result in results] == [[1, 1], [1, 1]]
    expected_ml = (Data().labels(cases(1)[0]) == 1).sum() * 2 / 1000
    assert results[0].scores[0].volume_ml == pytest.approx(expected_ml)


def test_what_is_not_seen_not_read_or_not_labelled() -> None:
    (result,), _ = evaluate(Data(), cases(1), blind=True)
    missed = (Data().labels(cases(1)[0]) == 2).sum() * 2 / 1000  # in the label file's own spacing
    assert result.scores[1]["volume_error_ml"] == pytest.approx(-missed)
    assert result.scores[1].empty == "prediction"
    results, failures = evaluate(Data(broken=["1"]), cases(3))
    assert [result.id for result in results] == ["0", "2"]
    assert [(f.case, f.file, f.reason) for f in failures] == [("1", "image.nii", "the file ends early")]
    (result,), _ = evaluate(Data(), [Case("0", label=None)])
    assert not result.labelled
    assert np.isnan([result.scores[0]["dice"], result.scores[0].reference_volume_ml]).all()
    assert result.scores[0].volume_ml == pytest.approx((Data().labels(Case("0")) == 1).sum() * 2 / 1000)


def test_saves_probabilities_on_request() -> None:
    saved: list = []
    for wanted in (False, True):
        evaluate(Data(), cases(1), lambda *given: saved.append(given[2:]), save_probabilities=wanted)
    assert saved[0][1] == {}
    np.testing.assert_array_equal(saved[0][0], Data().labels(cases(1)[0]))
    assert list(saved[1][1]) == ["probabilities"]
    np.testing.assert_array_equal(saved[1][1]["probabilities"].argmax(-1), saved[0][0])


def test_validation_takes_the_mean_over_cases_and_classes() -> None:
    validate = make_validation(config(), CLASS_NAMES, Data(shrunk=True), cases(4))
    assert validate(Threshold()) == {"dice.mean": 1.0, "dice.left": 1.0, "dice.right": 1.0}
    blind = validate(Threshold(blind=True))
    assert blind["dice.right"] == 0
    assert blind["dice.mean"] == pytest.approx(blind["dice.left"] / 2)


def test_validation_loads_an_even_share_of_the_cases_and_follows_the_model() -> None:
    data = Data()
    make_validation(config(validation_cases=3), CLASS_NAMES, data, cases(9))(Threshold())
    assert data.loaded == ["0", "4", "8"]
    assert evenly_spaced([1, 2], 5) == evenly_spaced([1, 2], None) == [1, 2]
    model = Threshold()
    validate = make_validation(config(), CLASS_NAMES, Data(), cases(1))
    model.scale = mx.array(-4.0)
    assert validate(model)["dice.mean"] < 0.5
    model.scale = mx.array(4.0)
    assert validate(model)["dice.mean"] == 1


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(training: bool) -> None:
    model = Threshold()
    model.train(training)
    before = {name: np.array(value) for name, value in tree_flatten(model.state)}
    key = random_key().tolist()
    make_validation(config(), CLASS_NAMES, Data(), cases(2))(model)
    for name, value in tree_flatten(model.state):
        np.testing.assert_array_equal(np.array(value), before[name], err_msg=name)
    assert random_key().tolist() == key  # a resumed run draws the same masks
    assert model.training == model.drop.training == training
    with pytest.raises(ValueError, match="ends early"):
        make_validation(config(), CLASS_NAMES, Data(broken=["0"]), cases(1))(model)
    assert model.training == training


@needs_compiler
def test_compiled_prediction_reads_weights_and_held_masks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where it is compiled: equal to the uncompiled one through weights, draws and back."""
    monkeypatch.setattr(backend, "_form", "mlx")
    mx.random.seed(0)
    args = UNet3dArgs(widths=(4, 4), convolutions=1, dropout=Dropout(rate=0.5, places=("bottleneck",)))
    model, x = build_model("unet3d", args, 1, 2).eval(), mx.random.normal((2, 4, 4, 4, 1))
    plain = make_predict(model, "float32")
    monkeypatch.setattr(memory, "on_gpu", lambda: True)
    compiled = make_predict(model, "float32")
    assert type(compiled) is not type(plain)
    assert type(make_predict(model, "float32", "never")) is type(plain)
    key, seen = random_key().tolist(), []

    def compare() -> None:
        seen.append(np.array(plain(x)))
        np.testing.assert_allclose(np.array(compiled(x)), seen[-1], rtol=1e-5, atol=1e-6)

    compare()
    for seed in (1, 2):
        with held_masks(model, seed):
            compare()
    compare()
    model.update(tree_map(lambda a: a * 1.5, model.parameters()))
    compare()
    assert len({a.tobytes() for a in seen}) == 4  # the two draws, and the networks without, before and after
    assert random_key().tolist() == key
    model.train()  # training is traced apart
    with evaluating(model):
        compare()


def test_the_network_is_given_its_precision(native_bfloat16) -> None:
    for precision, dtype in (("float32", mx.float32), ("bfloat16", mx.bfloat16)):
        assert make_predict(nn.Identity(), precision)(mx.zeros((1, 2, 2, 2, 1))).dtype == dtype
