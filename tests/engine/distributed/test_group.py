"""Several real processes over MLX's ring train as one process does, and end together."""

import json
from typing import Any

import numpy as np
import pytest

from tests import processes

pytestmark = pytest.mark.slow

Results = dict[int, list[dict[str, Any]]]  # by number of processes, then by rank


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = {}
    for count in (1, 2, 3):
        folder = tmp_path_factory.mktemp("processes")
        checks = "equality,dropout,sharing"
        ended = processes.run(folder, count, ["-m", "tests.engine.distributed_worker", checks, str(folder / "out")])
        assert [code for code, _, _ in ended] == [0] * count, ended
        results[count] = [json.loads((folder / f"out.{rank}").read_text()) for rank in range(count)]
    return results


CASES = ("dice_ce", "batch_dice", "focal", "smoothed", "accumulated", "batch_norm", "recalibrated")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one_does(found: Results, count: int, case: str) -> None:
    alone = found[1][0]["equality"][case]
    for rank in range(count):
        together = found[count][rank]["equality"][case]
        np.testing.assert_allclose(together["steps"], alone["steps"], rtol=1e-5, atol=1e-6)
        for name, values in alone["weights"].items():
            np.testing.assert_allclose(together["weights"][name], values, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("count", [2, 3])
def test_all_processes_hold_the_same_weights_and_statistics(found: Results, count: int) -> None:
    for case, first in found[count][0]["equality"].items():
        assert all(found[count][rank]["equality"][case] == first for rank in range(1, count)), case


def test_local_batch_norm_is_another_training(found: Results) -> None:
    alone, together = (found[count][0]["equality"]["local_batch_norm"]["steps"] for count in (1, 3))
    assert np.abs(np.array(alone) - together).max() > 1e-3


@pytest.mark.parametrize("count", [2, 3])
def test_processes_drop_other_channels_and_the_same_ones_again(found: Results, count: int) -> None:
    masks = np.array([ranks["dropout"]["masks"] for ranks in found[count]])  # (rank, draw, N, C)
    np.testing.assert_array_equal(masks[:, 0], masks[:, 2])
    drawn = masks[:, :2].reshape(count * 2, -1)
    for i in range(len(drawn)):
        for other in drawn[:i]:
            assert 0.25 < np.mean(drawn[i] == other) < 0.75


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cases_are_dealt_without_loss_and_come_back_in_order(found: Results, count: int) -> None:
    for rank, ranks in enumerate(found[count]):
        assert ranks["sharing"]["dealt"] == list(range(rank, 7, count))
        assert ranks["sharing"]["scores"] == [case / 3 for case in range(7)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_messages_and_gradients(found: Results, count: int) -> None:
    for ranks in found[count]:
        sharing = ranks["sharing"]
        assert sharing["shared"] == {"rank": 0}
        assert sharing["texts"] == ["ü" * rank * 5000 for rank in range(count)]
        assert sharing["received"] == {"a": [1.5, 2.5], "step": 3}
        assert sharing["gradient"] == [sum(range(1, count + 1))]
        assert sharing["mean"] == [(count - 1) / 2, 2.0]
