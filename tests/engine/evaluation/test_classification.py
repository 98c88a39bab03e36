import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from scipy.special import expit as sigmoid

from configs import Config
from engine.config import check_config
from engine.distributed.group import ALONE, Group
from engine.evaluation.classification import (
    classify_cases,
    freeze_frames,
    make_validation,
    predict_cases,
    stack_labels,
    validation_metrics,
)
from ops import memory
from tests.conftest import out_of_memory
from tests.engine.doubles import Case


@dataclass(frozen=True)
class Loaded:
    views: np.ndarray
    label: int | None
    group: str | None


@dataclass
class Data:
    """Clips of one pixel: case i has i + 1 views, whose frames hold 0, 1, 2 and, in view v, v more."""

    broken: Sequence[str] = ()
    loaded: list[str] = field(default_factory=list)

    def load(self, case: Case) -> Loaded:
        if case.id in self.broken:
            raise ValueError("image.nii: the file ends early")
        self.loaded.append(case.id)
        number = int(case.id)
        views = np.arange(3.0)[None, :] + np.arange(number + 1)[:, None]  # (V, T)
        return Loaded(views[..., None, None, None].astype(np.float32), number % 2, f"g{number}")


class LastFrame(nn.Module):
    """Logits 0 and the last frame's value; counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __call__(self, x: mx.array) -> mx.array:
        self.sizes.append(x.shape[0])
        last = x[:, -1, 0, 0, 0].astype(mx.float32)
        return mx.stack([mx.zeros_like(last), last], axis=-1)


def config(batch_size: int = 4, **evaluate: Any) -> Config:
    tree = {
        "name": "x",
        "task": "classification",
        "data": {"root": ".", "source": "classes", "augment": {"flip": {"probability": 0.5}}},
        "model": {"name": "cnn3d"},
        "train": {"steps": 1, "batch_size": batch_size},
        "evaluate": evaluate,
    }
    return check_config(tree, "test")


def test_probabilities_are_the_mean_over_views_whatever_the_batches() -> None:
    data, cases = Data(), [Case(str(i)) for i in range(4)]
    expected = [np.mean([sigmoid(2 + v) for v in range(i + 1)]) for i in range(4)]
    for batch_size, sizes in ((1, [1] * 10), (4, [4, 4, 2]), (50, [10])):
        model = LastFrame()
        results, failures = classify_cases(model, data, cases, config(batch_size))
        assert failures == []
        np.testing.assert_allclose([r.probabilities[1] for r in results], expected, rtol=1e-6)
        np.testing.assert_allclose([r.probabilities.sum() for r in results], 1, rtol=1e-14)
        assert model.sizes == sizes
    assert [(r.id, r.label, r.group, r.num_views) for r in results[:2]] == [("0", 0, "g0", 1), ("1", 1, "g1", 2)]
    assert [r.predicted for r in results] == [(1,)] * 4
    np.testing.assert_array_equal(stack_labels(results), [0, 1, 0, 1])


def test_labels_may_be_apart_and_views_of_another_size_start_another_batch() -> None:
    views = Data().load(Case("1")).views
    (p,) = predict_cases(LastFrame(), [views], 8, multi_label=True)
    np.testing.assert_allclose(p, [0.5, (sigmoid(2) + sigmoid(3)) / 2], rtol=1e-6)
    model = LastFrame()
    views = [np.ones((1, 3, 2, 2, 1), np.float32), np.ones((1, 3, 4, 4, 1), np.float32)]
    found = list(predict_cases(model, views, 8, multi_label=False))
    assert len(found) == 2
    assert model.sizes == [1, 1]


def test_still_frames_are_predicted_beside() -> None:
    results, _ = classify_cases(LastFrame(), Data(), [Case("0"), Case("1")], config(), still=True)
    assert results[0].probabilities[1] == pytest.approx(sigmoid(2))
    assert results[0].still[1] == pytest.approx(sigmoid(1))  # the middle frame
    assert results[1].still[1] == pytest.approx((sigmoid(1) + sigmoid(2)) / 2)
    views = np.arange(2 * 5 * 3).reshape(2, 5, 3, 1, 1)
    np.testing.assert_array_equal(freeze_frames(views), np.repeat(views[:, 2:3], 5, axis=1))


def test_mirrored_views_are_averaged() -> None:
    views = Data().load(Case("0")).views  # frames 0, 1, 2: mirrored along D the last is 0
    (p,) = predict_cases(LastFrame(), [views], 8, multi_label=False, mirror_axes=(0, 2))
    assert p[1] == pytest.approx((sigmoid(2) + sigmoid(0)) / 2)
    results, _ = classify_cases(LastFrame(), Data(), [Case("0")], config(mirror_axes=[0]))
    assert results[0].probabilities[1] == pytest.approx(p[1])


def test_a_broken_case_is_a_failure_and_the_others_go_on() -> None:
    cases = [Case(str(i)) for i in range(3)]
    results, failures = classify_cases(LastFrame(), Data(broken=["1"]), cases, config(2), still=True)
    assert [r.id for r in results] == ["0", "2"]
    assert results[1].probabilities[1] == pytest.approx(np.mean([sigmoid(2 + v) for v in range(3)]))
    assert [(f.case, f.file, f.reason) for f in failures] == [("1", "image.nii", "the file ends early")]


class Sharing(Group):
    """One process whose rows go through text, as those of several do."""

    def undeal(self, rows: Sequence[Any]) -> list[Any]:
        return json.loads(json.dumps(np.asarray(rows).tolist()))


@pytest.mark.parametrize("group", [ALONE, Sharing()])
def test_validation_reports_flat_names(group: Group) -> None:
    data, names = Data(), ("calm", "fight")
    scores = make_validation(config(), names, data, [Case(str(i)) for i in range(4)], group)(LastFrame())
    assert list(scores) == validation_metrics(config(), names)
    assert scores["accuracy"] == 0.5  # always class 1
    assert scores["auc"] == pytest.approx(3 / 4)  # more views, larger values: 0, 1, 2, 3
    assert scores["auc.fight"] == pytest.approx(3 / 4)
    assert scores["f1.calm"] == 0
    one_class = make_validation(config(), names, data, [Case("0"), Case("2")])(LastFrame())
    assert np.isnan(one_class["auc"])
    assert one_class["accuracy"] == 0


def test_a_batch_of_views_that_does_not_fit_names_the_batch_size(monkeypatch) -> None:
    out_of_memory(monkeypatch, "cudaMallocAsync(&data, size, stream) failed: out of memory")
    expected = r"^out of memory in prediction of views \(2, 1, 1, 1, 1\) .*: cuda.* Use a smaller train\.batch_size;"
    with pytest.raises(memory.OutOfMemory, match=expected):
        list(predict_cases(lambda x: x[:, 0, 0, 0], [np.zeros((2, 1, 1, 1, 1), np.float32)], 2, multi_label=False))
