"""Labels to train on beside those to score against: found by folder, column and pattern."""

import logging
from pathlib import Path
from typing import Any

import pytest

from configs.schema.data import DataConfig
from data.layouts.cases import Case
from data.layouts.registry import find_cases, find_labelled
from data.splits import Split, make_splits


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def config(root: Path, source: str, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"source": source, "root": root, **settings})


class TestFolder:
    FILES = ("images/a.nii", "images/b.nii", "labels/a_seg.nii", "labels/b_seg.nii")

    def test_by_the_label_s_name_or_the_case_s(self, tmp_path: Path) -> None:
        root = touch(tmp_path, *self.FILES, "weak/a_seg.nii.gz", "weak/b.nii")
        first, second = find_cases(config(root, "folders", train_labels="weak")).cases
        assert (first.label, first.train_label) == (root / "labels/a_seg.nii", root / "weak/a_seg.nii.gz")
        assert second.train_label == root / "weak/b.nii"
        assert first.files == (*first.images, first.label, first.train_label)
        assert first.to_train_on() == Case("a", first.images, first.train_label)

    def test_beside_a_table(self, tmp_path: Path) -> None:
        root = touch(tmp_path, "weak/a.nii")
        (root / "cases.csv").write_text("image,label\nimages/a.nii,labels/a.nii\n")
        (case,) = find_cases(config(root / "cases.csv", "csv", train_labels="weak")).cases
        assert (case.label, case.train_label) == (root / "labels/a.nii", root / "weak/a.nii")

    def test_unused_files_are_warned_of(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        root = touch(tmp_path, *self.FILES, "weak/a_seg.nii", "weak/c.nii")
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            found = find_cases(config(root, "folders", train_labels="weak")).cases
        assert [case.train_label is None for case in found] == [False, True]
        assert "weak: no case for c" in caplog.text

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ((), r"data\.train_labels='weak': no such column or folder in .*; .* holds images/, labels/"),
            (
                ("weak/x.nii",),
                r"no file of .*weak \(x\) has the name of a label or a case \(a_seg, b_seg\); rename them",
            ),
        ],
    )
    def test_mistakes(self, tmp_path: Path, files: tuple[str, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(config(touch(tmp_path, *self.FILES, *files), "folders", train_labels="weak"))


class TestTable:
    @pytest.mark.parametrize("named", ["scribble", "marks/{name}.nii"])
    def test_a_column_or_a_pattern(self, tmp_path: Path, named: str) -> None:
        (tmp_path / "cases.csv").write_text(
            "image,label,scribble,name\na.nii,full/a.nii,marks/a.nii,a\nb.nii,x.nii,,\n"
        )
        first, second = find_cases(config(tmp_path / "cases.csv", "csv", train_labels=named)).cases
        assert (first.label, first.train_label) == (tmp_path / "full/a.nii", tmp_path / "marks/a.nii")
        assert second.train_label is None

    def test_classes(self, tmp_path: Path) -> None:
        (tmp_path / "cases.csv").write_text("file,label,noisy\na.mp4,yes,no\nb.mp4,no,no\nc.mp4,,maybe\n")
        found = find_labelled(config(tmp_path / "cases.csv", "csv", clip={}, train_labels="noisy"))
        assert found.class_names == ("maybe", "no", "yes")
        assert [(case.label, case.train_label) for case in found.cases] == [(2, 1), (1, 1), (None, 0)]

    @pytest.mark.parametrize(
        ("train_labels", "message"),
        [
            ("noise", r"data\.train_labels='noise': no column with labels in .*cases\.csv; the training labels of"),
            ("empty", r"data\.train_labels='empty': no column with labels"),
            ("{nois}", r"data\.train_labels: no column 'nois' in .*; did you mean 'noisy'\?"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, train_labels: str, message: str) -> None:
        (tmp_path / "cases.csv").write_text("file,label,noisy,empty\na.mp4,yes,no,\nb.mp4,no,no,\n")
        with pytest.raises(ValueError, match=message):
            find_labelled(config(tmp_path / "cases.csv", "csv", clip={}, train_labels=train_labels))

    def test_class_folders_have_none(self, tmp_path: Path) -> None:
        root = touch(tmp_path, "a/1.nii", "b/1.nii")
        with pytest.raises(ValueError, match=r"of classes, only data\.source=csv has such labels"):
            find_labelled(config(root, "classes", train_labels="weak"))


class TestSplits:
    def listing(self, kinds: str) -> list[Case]:
        """Of each letter a case: with a full and a weak label (b), with one of the two (f, w)."""
        full, weak = Path("full.nii"), Path("weak.nii")
        return [
            Case(
                f"{kind}{n}",
                (Path("i.nii"),),
                full if kind in "bf" else None,
                train_label=weak if kind in "bw" else None,
            )
            for n, kind in enumerate(kinds)
        ]

    def test_weak_labels_alone_always_train(self) -> None:
        splits = make_splits(self.listing("bbww"), Split(folds=2), 0, seed=0)
        assert sorted(splits["train"] + splits["val"]) == ["b0", "b1", "w2", "w3"]
        assert set(splits["train"]) > {"w2", "w3"}
        assert splits["test"] == []

    def test_full_labels_alone_cannot_train(self) -> None:
        with pytest.raises(ValueError, match=r"data\.train_labels: none for 1 of the 2 training cases: f1; add theirs"):
            make_splits(self.listing("bf"), Split(kind="lists", train=("b0", "f1")), 0, seed=0)
        lists = Split(kind="lists", train=("b0", "w2"), val=("f1",))
        assert make_splits(self.listing("bfw"), lists, 0, seed=0)["val"] == ["f1"]

    def test_weak_labels_cannot_validate(self) -> None:
        with pytest.raises(ValueError, match=r"split val: cases without a label: w1"):
            make_splits(self.listing("bw"), Split(kind="lists", train=("b0",), val=("w1",)), 0, seed=0)
