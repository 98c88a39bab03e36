"""Which cases are used, and the reasons for leaving out others."""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.dataset import open_data
from data.files.errors import FileProblem
from data.layouts.cases import Case
from data.prepare.case_checks import Problem
from data.usable_cases import Roster
from tests.data.batches import batches
from tests.data.boxes import boxes_config, put_nan, write_boxes

CASES = [Case(name, (Path(f"{name}.nii"),)) for name in "abcd"]


def make_roster(on_error="skip"):
    roster = Roster(CASES, on_error, "data.root=here")
    roster.set_splits({"train": ["b", "a"], "val": ["c"], "test": ["d"]})
    return roster


def work(case):
    if case.id in "bc":
        raise FileProblem(case.images[0], "truncated", "fetch it again")
    return case.id.upper()


def test_map_tries_every_case_and_stops_or_skips_the_bad_ones() -> None:
    roster, steps = make_roster(), []
    assert roster.map(work, "abcd", 1, lambda done, total: steps.append((done, total))) == {"a": "A", "d": "D"}
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert roster.splits == {"train": ["a"], "val": [], "test": ["d"]}
    assert list(roster.cases) == ["a", "d"]
    assert roster.skipped == [(name, f"{name}.nii", "truncated; fetch it again") for name in "bc"]
    with pytest.raises(ValueError, match=r"(?s)here: 2 of 4 cases .*  b\.nii: truncated; fetch.*  c\.nii: truncated"):
        make_roster("stop").map(work, "abcd", 1)
    with pytest.raises(ZeroDivisionError):
        make_roster().map(lambda case: 1 // 0, "abcd", 1)


def test_splits_keep_their_order_and_refuse_strangers():
    roster = make_roster()
    assert roster.splits["train"] == ["b", "a"]
    with pytest.raises(ValueError, match=r"split val: data\.root=here does not hold x, y \(2 of 3 cases\)"):
        roster.set_splits({"train": ["a"], "val": ["x", "c", "y"]})


def test_no_training_case_left():
    roster = make_roster()
    with pytest.raises(ValueError, match="no training case is left after skipping 2 bad ones"):
        roster.reject([Problem(name, Path(name), "bad") for name in "ab"])


@pytest.fixture
def root(tmp_path):
    return write_boxes(tmp_path / "data")


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_bad_cases_stop_and_are_all_listed(root):
    truncate(root / "imagesTr" / "case_03.nii.gz")
    (root / "labelsTr" / "case_05.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)2 of 11 cases .*case_03\.nii\.gz: .*case_05\.nii\.gz: .*on_error=skip"):
        open_data(boxes_config(root))


def test_bad_cases_are_skipped_and_kept_on_record(root, caplog):
    whole = open_data(boxes_config(root))
    truncate(root / "imagesTr" / "case_03.nii.gz")
    put_nan(root / "imagesTr" / "case_05.nii.gz")
    data = open_data(boxes_config(root, on_error="skip"))
    assert [entry[0] for entry in data.skipped] == ["case_03"]
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        data.prepare_all()
    assert [entry[0] for entry in data.skipped] == ["case_03", "case_05"]
    assert data.skipped[1][1] == str(root / "imagesTr" / "case_05.nii.gz")
    assert "1 NaN and 0 infinite voxels" in data.skipped[1][2]
    assert "skipped case case_05" in caplog.text
    for name, ids in whole.splits.items():
        assert data.splits[name] == [i for i in ids if i not in ("case_03", "case_05")]
    assert len(batches(data)) == data.batches_per_epoch


def test_voxels_that_rule_a_case_out_stop_the_preparation(root):
    put_nan(root / "imagesTr" / "case_05.nii.gz")
    with pytest.raises(ValueError, match=r"1 of 11 cases cannot be used:\n.*case_05\.nii\.gz: 1 NaN"):
        open_data(boxes_config(root)).prepare_all()


def test_unprepared_bad_case_raises_with_its_name(root):
    for image in (root / "imagesTr").iterdir():
        put_nan(image)
    data = open_data(boxes_config(root))
    with pytest.raises(ValueError, match="1 NaN") as caught:
        batches(data)
    assert caught.value.__notes__[0].startswith("while reading case case_")


def copy_case(root, case_id, over):
    """The same voxels in other files, of another type."""
    for folder in ("imagesTr", "labelsTr"):
        image = nibabel.load(root / folder / f"{case_id}.nii.gz")
        copy = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(np.float64), image.affine)
        nibabel.save(copy, root / folder / f"{over}.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kfold", "lists"])
def test_a_copy_in_another_split_is_found_before_training(root, kind, caplog):
    whole = open_data(boxes_config(root))
    trained, scored = whole.splits["train"][0], whole.splits["val"][0]
    copy_case(root, scored, over=trained)
    split = {"kind": kind}
    if kind == "lists":
        split |= {name: tuple(whole.splits[name]) for name in ("train", "val")}
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            ValueError,
            match=rf"(?s)1 of 11 .*{trained}\.nii\.gz: a copy of case {scored} \(.*{scored}\.nii\.gz\), which is in "
            r"val: its score would be optimistic; remove .* one group .* data\.split\.allow_copies=true.*on_error=skip",
        ):
            open_data(boxes_config(root, split=split)).prepare_all()

    data = open_data(boxes_config(root, split=split, on_error="skip"))
    data.prepare_all()
    assert [case_id for case_id, _, _ in data.skipped] == [trained]
    assert data.splits["train"] == whole.splits["train"][1:]
    assert data.splits["val"] == whole.splits["val"]

    caplog.clear()
    kept = open_data(boxes_config(root, split={**split, "allow_copies": True}))
    kept.prepare_all()
    assert f"scores are optimistic, for 1 training cases copy scored ones: {trained}" in caplog.text
    assert kept.splits["train"] == whole.splits["train"]


def test_copies_within_a_split_are_allowed(root):
    first, second = open_data(boxes_config(root)).splits["train"][:2]
    copy_case(root, first, over=second)
    open_data(boxes_config(root)).prepare_all()


def test_no_case_left(root):
    for image in (root / "imagesTr").iterdir():
        truncate(image)
    with pytest.raises(ValueError, match="no case is left after skipping 11 bad ones"):
        open_data(boxes_config(root, on_error="skip"))


def test_case_with_other_channels_is_bad(root):
    path = root / "imagesTr" / "case_04.nii.gz"
    image = nibabel.load(path)
    doubled = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
    nibabel.save(nibabel.Nifti1Image(doubled, image.affine), path)
    with pytest.raises(ValueError, match=r"case_04\.nii\.gz: 2 channels, expected 1"):
        open_data(boxes_config(root))
    with pytest.raises(ValueError, match=r"data\.channels=\[1\]: the images have 1, counted from 0"):
        open_data(boxes_config(root, channels=[1], on_error="skip"))
