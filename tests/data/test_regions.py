"""Regions of a data set: as nnU-Net declares them, as several files, and as label values that files hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import Config
from data.dataset import open_data
from data.layouts.registry import settle_regions
from engine.config import check_config
from tests.data.write_layouts import write_volume


def label_of(*values: int) -> np.ndarray:
    """(6, 6, 6), whose planes along D hold the values, one after the other."""
    return np.array([values[d * len(values) // 6] for d in range(6)], np.uint8)[:, None, None] * np.ones(
        (1, 6, 6), np.uint8
    )


def config(root: Path, source: str, data: dict[str, Any] | None = None, **sections: Any) -> Config:
    where = {"root": str(root), "source": source, "patch_size_voxels": [8, 8, 8], "cache": {"folder": f"{root}/c"}}
    tree = {"name": "r", "data": {**where, **(data or {})}, "train": {"steps": 1, "batch_size": 1}, **sections}
    return check_config(tree, "r")


def write_nnunet(root: Path, facts: dict[str, Any], *values: int) -> Path:
    for case in "ab":
        image = np.random.default_rng(ord(case)).normal(size=(6, 6, 6)).astype(np.float32)
        write_volume(root / "imagesTr" / f"{case}_0000.nii.gz", image)
        write_volume(root / "labelsTr" / f"{case}.nii.gz", label_of(*values))
    facts = {"channel_names": {"0": "T1"}, "numTraining": 2, "file_ending": ".nii.gz", **facts}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def test_regions_of_an_nnunet_data_set_are_read_as_they_are(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "d", {"labels": BRATS, "regions_class_order": [1, 2, 3]}, 0, 1, 2, 3)
    settled = settle_regions(config(root, "nnunet"))
    assert settled.data.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert list(settled.data.regions) == ["whole", "core", "enhancing"]
    assert settled.data.region_values == (1, 2, 3)
    data = open_data(config(root, "nnunet", {"split": {"folds": 2}}))
    assert data.class_names == ("whole", "core", "enhancing")
    assert data.num_outputs == 3
    assert data.config == settle_regions(data.config)  # they are settled once
    prepared = data.load("a")
    np.testing.assert_array_equal(prepared.label, label_of(0, 1, 2, 3))
    assert sorted(prepared.foreground) == [1, 2, 3]
    own = {"regions": {"any": [1, 2, 3]}}
    assert settle_regions(config(root, "nnunet", own)).data.regions == {"any": (1, 2, 3)}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"labels": BRATS}, "'regions_class_order' must list a label value for each region, got null"),
        ({"labels": BRATS, "regions_class_order": [1, 2]}, "must be 3 different values"),
        ({"labels": BRATS, "regions_class_order": [3, 1, 2]}, r"1 is not in regions.core=\[2, 3\]"),
        ({"labels": {"a": [1, "2"]}, "regions_class_order": [1]}, r"'labels' of a must be numbers, got \[1, \"2\"\]"),
    ],
)
def test_mistakes_in_nnunets_regions(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    root = write_nnunet(tmp_path / "d", facts, 0, 1, 2, 3)
    with pytest.raises(ValueError, match=rf"dataset\.json: .*{message}"):
        settle_regions(config(root, "nnunet"))


def test_label_values_that_no_region_holds_are_refused(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "d", {"labels": BRATS}, 0, 1, 2, 3)
    regions = {"a": [1], "b": [3]}
    data = open_data(config(root, "nnunet", {"split": {"folds": 2}, "regions": regions}))
    with pytest.raises(ValueError, match=r"no region of data\.regions holds: 2; add them to a region, or read"):
        data.prepare_all()
    mapped = {"split": {"folds": 2}, "regions": regions, "label_map": {2: 0}}
    data = open_data(config(root, "nnunet", mapped))
    data.prepare_all()
    np.testing.assert_array_equal(data.load("a").label, label_of(0, 1, 0, 3))
    with pytest.raises(ValueError, match=r"label values outside 0…1: 2, 3, 108 voxels"):
        open_data(config(root, "nnunet", {"split": {"folds": 2}, "regions": {"a": [1]}})).prepare_all()


def write_files(root: Path, whole: np.ndarray, core: np.ndarray) -> Path:
    lines = ["image,whole,core"]
    for case in "ab":
        write_volume(root / f"{case}.nii.gz", np.random.default_rng(ord(case)).normal(size=(6, 6, 6)))
        write_volume(root / f"{case}_whole.nii.gz", whole)
        write_volume(root / f"{case}_core.nii.gz", core)
        lines.append(f"{case}.nii.gz,{case}_whole.nii.gz,{case}_core.nii.gz")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root


COLUMNS = {"columns": {"label": ["whole", "core"]}, "split": {"folds": 2}}


def test_several_files_of_0_and_1_become_one_volume_of_their_combinations(tmp_path: Path) -> None:
    root = write_files(tmp_path / "d", label_of(0, 1, 1), label_of(0, 0, 1))
    data = open_data(config(root, "csv", COLUMNS))
    data.prepare_all()
    assert data.class_names == ("whole", "core")
    np.testing.assert_array_equal(data.load("a").label, label_of(0, 1, 3))
    np.testing.assert_array_equal(data.read_label("a")[0], label_of(0, 1, 3))
    assert len(data.files) == 6  # a changed label file is found whichever it is


def test_a_voxel_ignored_in_one_file_is_ignored(tmp_path: Path) -> None:
    root = write_files(tmp_path / "d", label_of(0, 1, 1), label_of(9, 0, 1))
    with pytest.raises(ValueError, match=r"_core\.nii\.gz: label values 9, expected 0 and 1"):
        open_data(config(root, "csv", COLUMNS)).prepare_all()
    data = open_data(config(root, "csv", COLUMNS, loss={"ignore_label": 9}))
    np.testing.assert_array_equal(data.load("a").label, label_of(9, 1, 3))
    np.testing.assert_array_equal(data.read_label("a")[0], label_of(9, 1, 3))


def test_a_row_has_a_file_for_each_region_or_none(tmp_path: Path) -> None:
    root = write_files(tmp_path / "d", label_of(0, 1), label_of(0, 1))
    table = root / "cases.csv"
    table.write_text(table.read_text().replace("b_whole.nii.gz", ""))
    with pytest.raises(ValueError, match=r"cases\.csv: row 3 has no whole; give a file for each region, or for none"):
        open_data(config(root, "csv", COLUMNS))


def test_cropped_away_voxels_are_in_no_region(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root = write_nnunet(root, {"labels": BRATS, "regions_class_order": [1, 2, 3]}, 0, 1)
    for case in "ab":
        image = np.zeros((6, 6, 6), np.float32)
        image[2:5] = np.random.default_rng(0).uniform(1, 2, (3, 6, 6))
        write_volume(root / "imagesTr" / f"{case}_0000.nii.gz", image)
    data = open_data(config(root, "nnunet", {"split": {"folds": 2}, "crop_nonzero": True}))
    prepared = data.load("a")
    slabs = np.concatenate([slab for _, slab in data.restore_slabs(prepared, np.ones((*prepared.grid.shape, 3)))])
    assert slabs.sum(axis=(1, 2)).tolist() == [[36.0 * (2 <= d < 5)] * 3 for d in range(6)]
