import json
import logging
from pathlib import Path

import numpy as np
import pytest

from configs.schema.data import Split
from data.layouts.cases import Case
from data.layouts.registry import find_cases
from data.splits import make_splits
from engine.config import load_config


def cases(number: int, groups: int = 0, labelled: bool = True) -> list[Case]:
    label = Path("l.nii") if labelled else None
    return [
        Case(f"c{n:03d}", (Path("i.nii"),), label, group=f"g{n * n % groups}" if groups else None)
        for n in range(number)
    ]


@pytest.mark.parametrize("number", [5, 23, 208])
def test_each_case_is_validated_in_exactly_one_fold(number: int) -> None:
    listing = cases(number)
    folds = [make_splits(listing, Split(folds=5), fold, seed=3) for fold in range(5)]

    validated = [case_id for splits in folds for case_id in splits["val"]]
    assert sorted(validated) == [case.id for case in listing]
    sizes = [len(splits["val"]) for splits in folds]
    assert max(sizes) - min(sizes) <= 1
    for splits in folds:
        assert sorted(splits["train"] + splits["val"]) == [case.id for case in listing]
        assert splits["test"] == []


@pytest.mark.parametrize("split", [Split(), Split(kind="ratio", ratio=(0.7, 0.2, 0.1))])
@pytest.mark.parametrize("groups", [0, 17])
def test_the_seed_alone_decides(split: Split, groups: int) -> None:
    listing = cases(60, groups)
    shuffled = [listing[n] for n in np.random.default_rng(9).permutation(60)]

    first = make_splits(listing, split, 0, seed=0)
    assert make_splits(shuffled, split, 0, seed=0) == first
    assert make_splits(listing, split, 0, seed=1) != first
    assert json.loads(json.dumps(first)) == first


def test_a_frozen_split() -> None:  # a run can be compared with an older one only while this holds
    assert make_splits(cases(8), Split(folds=4), 0, seed=0)["val"] == ["c002", "c005"]


@pytest.mark.parametrize("split", [Split(folds=4), Split(kind="ratio", ratio=(0.6, 0.2, 0.2))])
def test_groups_stay_together(split: Split) -> None:
    listing = cases(80, groups=31)
    group_of = {case.id: case.group for case in listing}
    splits = make_splits(listing, split, 0, seed=0)

    assert sorted(case_id for ids in splits.values() for case_id in ids) == sorted(group_of)
    sides = [{group_of[case_id] for case_id in ids} for ids in splits.values()]
    assert not sides[0] & sides[1]
    assert not sides[1] & sides[2]
    assert not sides[0] & sides[2]
    loose = make_splits(listing, split.model_copy(update={"by_group": False}), 0, seed=0)
    assert {group_of[case_id] for case_id in loose["train"]} & {group_of[case_id] for case_id in loose["val"]}


def test_folds_of_unequal_groups_are_about_equal() -> None:
    listing = [
        Case(f"c{group}_{n}", (Path("i"),), Path("l"), group=str(group))
        for group, size in enumerate([9, 1, 1, 5, 4, 4, 3, 3])
        for n in range(size)
    ]
    sizes = [len(make_splits(listing, Split(folds=3), fold, seed=0)["val"]) for fold in range(3)]
    assert sorted(sizes) == [9, 10, 11]


@pytest.mark.parametrize(
    ("number", "ratio", "sizes"),
    [
        (10, (0.8, 0.2, 0.0), (8, 2, 0)),
        (11, (0.7, 0.2, 0.1), (8, 2, 1)),
        (7, (2, 1, 1), (3, 2, 2)),
        (3, (8, 2, 0), (2, 1, 0)),
    ],
)
def test_ratios_are_met(number: int, ratio: tuple[float, float, float], sizes: tuple[int, ...]) -> None:
    splits = make_splits(cases(number), Split(kind="ratio", ratio=ratio), 0, seed=0)
    assert tuple(len(splits[name]) for name in ("train", "val", "test")) == sizes


@pytest.mark.parametrize("split", [Split(folds=2), Split(kind="ratio")])
def test_unlabelled_and_test_cases_are_never_drawn(split: Split) -> None:
    held = Case("t", (Path("i"),), Path("l"), split="test")
    listing = [*cases(8), Case("u", (Path("i"),)), held]
    splits = make_splits(listing, split, 0, seed=0)

    assert splits["test"] == ["t", "u"]
    assert len(splits["train"] + splits["val"]) == 8


def test_an_unused_split_of_the_source_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    listing = [Case(f"c{n}", (Path("i"),), Path("l"), split="train") for n in range(5)]
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        make_splits(listing, Split(), 0, seed=0)
    assert "the source's own needs data.split.kind=given" in caplog.text


def test_lists_or_given(caplog: pytest.LogCaptureFixture) -> None:
    split = Split(kind="lists", train=("c002", "c000"), val=("c001",))
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        assert make_splits(cases(5), split, 0, 0) == {"train": ["c000", "c002"], "val": ["c001"], "test": []}
    assert caplog.messages == ["in no split: c003, c004"]
    listing = [Case(name, (Path("i"),), Path("l"), split=name[:-1]) for name in ("test1", "train2", "train1", "val1")]
    splits = make_splits(listing, Split(kind="given"), 0, 0)
    assert splits == {"train": ["train1", "train2"], "val": ["val1"], "test": ["test1"]}


def classified(labels: list[int | tuple[int, ...]], groups: list[str] | None = None) -> list[Case]:
    return [
        Case(f"c{n:03d}", (Path("i.mp4"),), label, group=groups[n] if groups else None)
        for n, label in enumerate(labels)
    ]


def counts(listing: list[Case], ids: list[str]) -> list[int]:
    labels = {case.id: case.label for case in listing}
    return np.bincount([labels[case_id] for case_id in ids], minlength=3).tolist()


def test_folds_and_ratios_have_their_share_of_each_class() -> None:
    listing = classified([0] * 30 + [1] * 12 + [2] * 5)
    folds = [make_splits(listing, Split(folds=5), fold, seed=1) for fold in range(5)]
    shares = np.array([counts(listing, splits["val"]) for splits in folds])
    assert shares.sum(axis=0).tolist() == [30, 12, 5]
    assert np.ptp(shares, axis=0).max() <= 1
    assert np.ptp(shares.sum(axis=1)) <= 2
    listing = classified([0] * 60 + [1] * 20)
    splits = make_splits(listing, Split(kind="ratio", ratio=(0.5, 0.25, 0.25)), 0, seed=0)
    assert [counts(listing, splits[name]) for name in ("train", "val", "test")] == [[30, 10, 0], [15, 5, 0], [15, 5, 0]]


def test_classes_that_may_coincide_are_shared_out() -> None:
    rng = np.random.default_rng(0)
    labels = [tuple(row) for row in (rng.random((60, 3)) < (0.5, 0.3, 0.15)).astype(int).tolist()]
    listing = classified(labels)
    by_id = {case.id: case.label for case in listing}
    folds = [make_splits(listing, Split(folds=4), fold, seed=0)["val"] for fold in range(4)]
    shares = np.array([np.sum([by_id[case_id] for case_id in ids], axis=0) for ids in folds])
    assert np.ptp(shares, axis=0).max() <= 3


def test_groups_stay_whole_and_classes_even() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(0, 40, 200)]
    listing = classified([int(rng.random() < (0.2 if int(g[1:]) % 2 else 0.7)) for g in groups], groups)
    folds = [make_splits(listing, Split(folds=5), fold, seed=0) for fold in range(5)]
    for splits in folds:
        held = {name: {groups[int(case_id[1:])] for case_id in splits[name]} for name in ("train", "val")}
        assert not held["train"] & held["val"]
    shares = np.array([counts(listing, splits["val"])[:2] for splits in folds])
    assert np.abs(shares - shares.mean(axis=0)).max() <= 4


@pytest.mark.parametrize("kind", ["ignored", "lists"])
def test_torn_groups_are_warned_of(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    listing = classified([0, 1] * 5, list("aabbccddee"))
    split = Split(folds=2, by_group=False)
    if kind == "lists":
        split = Split(kind="lists", train=("c000", "c002"), val=("c001", "c003"))
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        make_splits(listing, split, 0, seed=0)
    assert "groups have cases in several splits (" in caplog.text
    caplog.clear()
    make_splits(listing, Split(folds=2), 0, seed=0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("listing", "split", "message"),
    [
        (cases(3), Split(), r"data.split.folds=5 needs as many labelled cases or groups, there are 3"),
        (cases(30, groups=4), Split(), "there are [1-4]$"),
        (cases(9, labelled=False), Split(), "there are 0"),
        (cases(2), Split(kind="ratio"), r"ratio=\[0.8, 0.2, 0.0\] leaves no case for val: there are 2 labelled"),
        (cases(9), Split(kind="lists", train=("c0O1",)), "data.split.train: no case 'c0O1'; the nearest is 'c001'"),
        (cases(9), Split(kind="lists", train=("c001",), val=("c001",)), "'c001' is in data.split.train already"),
        (cases(9), Split(kind="lists", val=("c001",)), "data.split.train: no training case"),
        (cases(9, labelled=False), Split(kind="lists", train=("c001",)), "split train: cases without a label: c001"),
        (cases(9), Split(kind="given"), "data.split.kind=given: the source gives no split"),
    ],
)
def test_mistakes(listing: list[Case], split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(listing, split, 0, seed=0)


def test_the_fine_tuning_configs_never_train_on_a_case_that_they_evaluate(datasets: Path) -> None:
    folder = Path(__file__).parents[2] / "configs" / "finetune"
    pretrain, finetune = (
        load_config(folder / f"{name}.yaml", [f"data.root={datasets / 'hippocampus'}"])
        for name in ("pretrain", "finetune")
    )
    listing = find_cases(pretrain.data).cases
    before, after = (make_splits(listing, c.data.split, c.data.fold, c.data.split.seed) for c in (pretrain, finetune))
    assert (len(before["train"]), len(after["train"]), len(after["val"])) == (160, 8, 40)
    assert (after["train"], after["val"]) == (before["val"], before["test"])


class TestFoldsOfTheSource:
    def listing(self, folds: str) -> list[Case]:
        names = [None if name == "-" else name for name in folds.split()]
        return [Case(f"c{n}", (Path("i.nii"),), Path("l.nii"), fold=name) for n, name in enumerate(names)]

    def test_by_their_numbers(self) -> None:
        listing = self.listing("10 2 1 2 10 1")
        found = [make_splits(listing, Split(folds=3), fold, seed=0) for fold in range(3)]
        assert [splits["val"] for splits in found] == [["c2", "c5"], ["c1", "c3"], ["c0", "c4"]]
        assert found[0]["train"] == ["c0", "c1", "c3", "c4"]

    def test_test_cases_have_none(self) -> None:
        listing = [*self.listing("a b"), Case("t", (Path("i.nii"),), Path("l.nii"), split="test")]
        assert make_splits(listing, Split(folds=2), 1, seed=0) == {"train": ["c0"], "val": ["c1"], "test": ["t"]}

    @pytest.mark.parametrize(
        ("folds", "split", "message"),
        [
            (
                "a b c",
                Split(folds=5),
                r"data\.split\.folds=5: the column .* holds a, b, c; set data.split.folds=3",
            ),
            ("a a a", Split(folds=5), r"holds a; choose another with data\.columns\.fold"),
            ("a b -", Split(folds=2), r"no fold for c2; fill in their cells, or set split=test in their rows"),
            ("a b b", Split(kind="given"), r"the source gives no split; use kfold with data\.split\.folds=2"),
        ],
    )
    def test_mistakes(self, folds: str, split: Split, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_splits(self.listing(folds), split, 0, seed=0)

    def test_a_ratio_warns_of_them(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            make_splits(self.listing("a b b a"), Split(kind="ratio", ratio=(0.5, 0.5, 0)), 0, seed=0)
        assert "the source's folds need data.split.kind=kfold" in caplog.text
