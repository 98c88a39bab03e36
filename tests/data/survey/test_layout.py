"""Layouts told from a path, and those that cannot be trained on named."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.survey.layout import read_settings, recognise
from tests.data.layouts import write_folders, write_layout, write_volume


@pytest.mark.parametrize("kind", ["msd", "nnunet", "folders", "csv"])
def test_layouts_are_recognised(tmp_path: Path, kind: str) -> None:
    path = write_layout(kind, tmp_path / "data", cases=1)
    data = read_settings(path).data
    assert (data.source, data.root) == (kind, path)
    if kind == "folders":
        assert (data.images, data.labels) == ("scans", "masks")


def test_a_dataset_json_stands_for_its_folder(tmp_path: Path) -> None:
    root = write_layout("msd", tmp_path / "data", cases=1)
    assert recognise(root / "dataset.json")["data"] == {"source": "msd", "root": str(root)}


def test_a_folder_with_one_table_is_the_table(tmp_path: Path) -> None:
    table = write_layout("csv", tmp_path / "data", cases=1)
    assert recognise(table.parent)["data"] == {"source": "csv", "root": str(table)}


def test_a_table_of_other_facts_does_not_hide_the_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, cases=1)
    (tmp_path / "ages.csv").write_text("name,age\ncase0,40\n")
    assert recognise(tmp_path)["data"]["source"] == "folders"


def test_the_first_nnunet_version_lists_files_that_have_other_names(tmp_path: Path) -> None:
    root = write_layout("nnunet", tmp_path / "data", cases=1)
    facts = {"labels": {"0": "background", "1": "a"}, "modality": {"0": "MRI"}}
    entry = {"image": "./imagesTr/phantom_000.nii.gz", "label": "./labelsTr/phantom_000.nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**facts, "training": [entry]}))
    assert recognise(root)["data"]["source"] == "nnunet"


def test_the_ignore_label_of_nnunet(tmp_path: Path) -> None:
    root = write_layout("nnunet", tmp_path / "data", cases=1)
    labels = {"background": 0, "a": 1, "ignore": 2}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    assert read_settings(root).loss.ignore_label == 2


def test_numbered_images_without_a_dataset_json(tmp_path: Path) -> None:
    root = write_layout("nnunet", tmp_path / "data", cases=1)
    (root / "dataset.json").unlink()
    assert recognise(root)["data"]["source"] == "nnunet"


def test_loose_volumes_are_unlabelled_cases(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.uint8))
    assert recognise(tmp_path)["data"] == {"source": "folders", "root": str(tmp_path), "images": "."}


def test_columns_can_be_named(tmp_path: Path) -> None:
    write_folders(tmp_path, cases=1)
    table = tmp_path / "cases.csv"
    table.write_text("t1,seg\nimages/case0.nii.gz,labels/case0.nii.gz\n")
    config = read_settings(table, ["data.columns.image=t1", "data.columns.label=seg"])
    assert (config.data.columns.image, config.data.columns.label) == ("t1", "seg")
    with pytest.raises(ValueError, match=r"train\.steps=5: only keys that say how files are read: data\.source"):
        read_settings(table, ["train.steps=5"])


def test_class_folders(tmp_path: Path) -> None:
    for name in ("fight", "peace"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"class folders of clips \(fight, peace\), .* not trainable yet"):
        recognise(tmp_path)
    with pytest.raises(ValueError, match=r"video clips \(a\.mp4\)\. This layout is not trainable yet"):
        recognise(tmp_path / "fight")


def test_folders_of_volumes(tmp_path: Path) -> None:
    for name in ("case1", "case2"):
        write_volume(tmp_path / name / "t1.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"folders of volumes \(case1, case2\): class folders, .* listed in a CSV"):
        recognise(tmp_path)


def test_a_medmnist_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "organ.npz", train_images=np.zeros((2, 4, 4, 4), np.uint8), train_labels=np.zeros((2, 1)))
    for path in (tmp_path, tmp_path / "organ.npz"):
        with pytest.raises(ValueError, match=r"organ\.npz is a MedMNIST archive .* not trainable yet"):
            recognise(path)


def test_a_table_of_classes(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("file,label,group\na.nii.gz,healthy,1\n")
    with pytest.raises(ValueError, match=r"a table of files and their classes.* not trainable yet"):
        recognise(table)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"no layout that is known here, found notes\.txt; expected one of msd: "):
        recognise(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        read_settings(tmp_path / "nowhere")


def test_the_shared_data_sets(datasets: Path) -> None:
    assert recognise(datasets / "hippocampus")["data"]["source"] == "msd"
    with pytest.raises(ValueError, match=r"class folders of clips \(fight, noFight\)"):
        recognise(datasets / "fight")
    with pytest.raises(ValueError, match=r"MedMNIST archive"):
        recognise(datasets / "adrenal")
