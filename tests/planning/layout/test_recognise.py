"""Layouts recognised from a path, and messages for paths that hold none."""

import json
from pathlib import Path

import numpy as np
import pytest

from planning.layout.recognise import read_settings, recognise
from tests.data.clip_files import numbered, write_frames
from tests.data.write_layouts import write_folders, write_layout, write_volume


@pytest.mark.parametrize("kind", ["msd", "nnunet", "folders", "csv"])
def test_layouts_are_recognised(tmp_path: Path, kind: str) -> None:
    path = write_layout(kind, tmp_path / "data", cases=1)
    data = read_settings(path).data
    assert (data.source, data.root) == (kind, path)
    if kind == "folders":
        assert (data.images, data.labels) == ("scans", "masks")
    beside = {"msd": path / "dataset.json", "csv": path.parent}.get(kind)  # stands for the folder, or for its one table
    if beside is not None:
        assert recognise(beside)["data"] == {"source": kind, "root": str(path)}


def test_tables_of_other_facts_and_columns_that_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path, cases=1)
    (tmp_path / "ages.csv").write_text("name,age\ncase0,40\n")
    assert recognise(tmp_path)["data"]["source"] == "folders"
    table = tmp_path / "cases.csv"
    table.write_text("t1,seg\nimages/case0.nii.gz,labels/case0.nii.gz\n")
    config = read_settings(table, ["data.columns.image=t1", "data.columns.label=seg"])
    assert (config.data.columns.image, config.data.columns.label) == ("t1", "seg")
    with pytest.raises(ValueError, match=r"train\.steps=5: expected a key that says how files are read: task"):
        read_settings(table, ["train.steps=5"])


def test_datasets_of_nnunet_by_their_json_or_names(tmp_path: Path) -> None:
    root = write_layout("nnunet", tmp_path / "data", cases=1)
    labels = {"background": 0, "a": 1, "ignore": 2}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    assert read_settings(root).loss.ignore_label == 2
    facts = {"labels": {"0": "background", "1": "a"}, "modality": {"0": "MRI"}}  # the first version's
    entry = {"image": "./imagesTr/phantom_000.nii.gz", "label": "./labelsTr/phantom_000.nii.gz"}  # of other names
    (root / "dataset.json").write_text(json.dumps({**facts, "training": [entry]}))
    assert recognise(root)["data"]["source"] == "nnunet"
    (root / "dataset.json").unlink()
    assert recognise(root)["data"]["source"] == "nnunet"


def test_loose_volumes_are_unlabelled_cases(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.uint8))
    assert recognise(tmp_path)["data"] == {"source": "folders", "root": str(tmp_path), "images": "."}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize("parent", [".", "train"])
def test_class_folders(tmp_path: Path, parent: str) -> None:
    touch(*(tmp_path / parent / name / "a.mp4" for name in ("fight", "peace")))
    tree = recognise(tmp_path)
    assert tree["task"] == "classification"
    assert tree["data"] == {"source": "classes", "root": str(tmp_path), "clip": {}}
    with pytest.raises(ValueError, match=r"video clips \(a\.mp4\) without classes; move those of each class"):
        recognise(tmp_path / parent / "fight")


def test_class_folders_of_volumes(tmp_path: Path) -> None:
    touch(*(tmp_path / name / f"{name}{n}.nii.gz" for name in ("healthy", "ill") for n in range(3)))
    assert recognise(tmp_path)["data"] == {"source": "classes", "root": str(tmp_path)}
    assert read_settings(tmp_path).model.name == "cnn3d"


@pytest.mark.parametrize("names", [("t1.nii.gz",), ("t1.nii.gz", "t2.nii.gz")])
def test_folders_of_cases_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(*(tmp_path / case / name for case in ("case1", "case2") for name in names))
    with pytest.raises(ValueError, match=r"folders of volumes \(case1, case2\): if each is a class, set data\.source"):
        recognise(tmp_path)
    assert read_settings(tmp_path, ["data.source=classes"]).task == "classification"


def test_a_table_beside_class_folders_is_preferred(tmp_path: Path) -> None:
    touch(*(tmp_path / name / "a.mp4" for name in ("fight", "peace")))
    (tmp_path / "groups.csv").write_text("file,label,group\nfight/a.mp4,fight,1\npeace/a.mp4,peace,2\n")
    assert recognise(tmp_path)["data"] == {"source": "csv", "root": str(tmp_path / "groups.csv"), "clip": {}}
    config = read_settings(tmp_path, ["data.source=classes"])
    assert (config.data.source, config.task) == ("classes", "classification")
    assert config.data.clip is not None


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_medmnist_archive(tmp_path: Path, split: str) -> None:
    arrays = {f"{split}_images": np.zeros((2, 4, 4, 4), np.uint8), f"{split}_labels": np.zeros((2, 1))}
    np.savez(tmp_path / "organ.npz", **arrays)
    for path in (tmp_path, tmp_path / "organ.npz"):
        tree = recognise(path)
        assert (tree["task"], tree["data"]["source"]) == ("classification", "medmnist")
        assert tree["data"]["root"] == str(tmp_path / "organ.npz")


def test_a_table_of_classes(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("file,label,group\na.nii.gz,healthy,1\n")
    assert recognise(table) == {"task": "classification", "data": {"source": "csv", "root": str(table)}}
    table.write_text("scan,grade\na.nii.gz,2\n")
    with pytest.raises(ValueError, match=r"no image column \(looked for image, path, file\); it has scan, grade"):
        recognise(table)
    columns = ["data.columns.image=scan", "data.columns.label=grade"]
    assert read_settings(table, columns).task == "classification"


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"no known layout, found notes\.txt; expected one of msd: "):
        recognise(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder"):
        read_settings(tmp_path / "nowhere")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no end")
    with pytest.raises(ValueError, match=r"cut\.npz: not a whole \.npz archive; fetch the file again"):
        read_settings(tmp_path / "cut.npz")


@pytest.mark.parametrize(("file", "what"), [("a.mp4", "clips"), ("a.nii.gz", "volumes")])
def test_one_folder_says_what_it_holds(tmp_path: Path, file: str, what: str) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / file).touch()
    with pytest.raises(ValueError, match=rf"folders of {what} \(cat\): if each is a class, set data\.source=classes"):
        recognise(tmp_path)


def test_the_shared_data_sets(datasets: Path) -> None:
    assert recognise(datasets / "hippocampus")["data"]["source"] == "msd"
    assert recognise(datasets / "fight")["data"]["root"].endswith("groups.csv")
    assert recognise(datasets / "adrenal")["data"]["source"] == "medmnist"


def test_a_folder_with_one_table(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name,label\na,x\nb,y\n")
    with pytest.raises(ValueError, match=r"list\.csv: no image column .*it has name, label; set data\.columns\.image"):
        recognise(tmp_path)
    config = read_settings(tmp_path, ["data.columns.image={name}.mp4"])
    assert (config.task, config.data.source, config.data.columns.image) == ("classification", "csv", "{name}.mp4")
    assert config.data.clip is not None


def test_folders_of_frames(tmp_path: Path) -> None:
    for name in ("a/one", "b/two"):
        write_frames(tmp_path / "classes" / name, numbered(2))
        write_frames(tmp_path / "clips" / name.replace("/", "_"), numbered(2))
    tree = recognise(tmp_path / "classes")
    assert (tree["data"]["source"], tree["data"]["clip"]) == ("classes", {})
    with pytest.raises(ValueError, match=r"video clips \(a_one, b_two\) without classes; move those of each"):
        recognise(tmp_path / "clips")
    (tmp_path / "clips" / "cases.csv").write_text("file,label\na_one,x\nb_two,y\n")
    assert recognise(tmp_path / "clips")["data"]["clip"] == {}


def test_patterns_that_are_asked_for(tmp_path: Path) -> None:
    touch(*(tmp_path / case / f"{name}.nii" for case in "abc" for name in ("t1", "t2", "seg", "core_seg")))
    data = read_settings(tmp_path, ["data.images=*/t1.nii"]).data
    assert (data.source, data.images, data.labels) == ("folders", "*/t1.nii", "*/seg.nii")
    data = read_settings(tmp_path, ["data.labels=*/core_seg.nii"]).data
    assert (data.images, data.labels) == (("*/t1.nii", "*/t2.nii"), "*/core_seg.nii")
    data = read_settings(tmp_path / "a", ["data.images=t?.nii", "data.labels=seg.nii"]).data
    assert (data.source, data.images) == ("folders", "t?.nii")


def test_labels_without_images_of_their_names(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{name}.nii.gz" for name in ("t1", "t2", "seg")))
    with pytest.raises(
        ValueError, match=r"labels \(seg\.nii\.gz\) that no image is named after; of the files of a single"
    ):
        recognise(tmp_path)


def test_folders_without_labels_name_the_patterns(tmp_path: Path) -> None:
    touch(*(tmp_path / case / f"{name}.nii" for case in "ab" for name in ("t1", "t2")))
    said = (
        r"give patterns \(data\.source=folders 'data\.images=\[\*/t1\.nii, \*/t2\.nii\]' 'data\.labels=\*/….nii\.gz'\)"
    )
    with pytest.raises(ValueError, match=said):
        recognise(tmp_path)


def test_flat_images_with_masks_are_no_volumes(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / f"a{n}.png" for folder in ("images", "masks") for n in range(2)))
    with pytest.raises(
        ValueError, match=r"images: 2-D images \(a0\.png …\) with label images: stack the slices of one"
    ):
        recognise(tmp_path)
