import numpy as np

from data.sampling.order import balanced_order, epoch_order, occurrences

LABELS = [0] * 17 + [1] * 5 + [3] * 2


def test_each_case_once() -> None:
    assert sorted(epoch_order(9, 0, 0)) == list(range(9))
    assert epoch_order(9, 0, 0) == epoch_order(9, 0, 0)
    assert len({tuple(epoch_order(9, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert occurrences([3, 1, 3, 3, 1, 0]) == [0, 0, 1, 2, 1, 0]


def test_classes_come_equally_often() -> None:
    for epoch in range(5):
        order = balanced_order(LABELS, 0, epoch)
        assert order == balanced_order(LABELS, 0, epoch)
        counts = np.bincount(order, minlength=len(LABELS))
        per_class = [counts[np.array(LABELS) == value] for value in (0, 1, 3)]
        assert [int(part.sum()) for part in per_class] == [8, 8, 8]
        assert all(np.ptp(part) <= 1 for part in per_class)
    drawn = {index for epoch in range(20) for index in balanced_order(LABELS, 0, epoch)}
    assert drawn == set(range(len(LABELS)))
    counts = [np.bincount(np.array([0, 0, 1, 1, 1])[balanced_order([0, 0, 1, 1, 1], 0, epoch)]) for epoch in range(20)]
    assert {tuple(c.tolist()) for c in counts} == {(2, 3), (3, 2)}
