"""Folders of DICOM slices as cases, in the layouts that hold volumes."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema.data import DataConfig
from data.files.formats.registry import parts_of
from data.files.volumes import read_header
from data.layouts.cases import list_volumes, stem
from data.layouts.folders import find_images
from data.layouts.names import Guess, guess_patterns
from data.layouts.registry import find_cases
from data.prepare.cache import cache_key
from data.prepare.case_checks import check_case
from planning.layout.recognise import recognise
from tests.data.dicom_files import voxels, write_object, write_series
from tests.data.write_layouts import write_volume
from tests.planning.take import survey


def test_a_folder_of_slices_is_listed_as_one_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "p.01", voxels())
    write_series(tmp_path / "p.02" / "study" / "ct", voxels(), name=lambda k: f"IM{k}")
    write_series(tmp_path, voxels())
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README").write_text("nothing")
    found = list_volumes(tmp_path)
    assert found == [tmp_path / "p.01", tmp_path / "p.02", tmp_path / "scan.nii.gz"]
    assert [stem(path) for path in found] == ["p.01", "p.02", "scan"]


def test_images_are_a_folder_of_slices_or_of_such_folders_or_a_file(tmp_path: Path) -> None:
    write_series(tmp_path / "a", voxels())
    write_series(tmp_path / "b", voxels())
    assert [case.images for case in find_images(tmp_path)] == [(tmp_path / "a",), (tmp_path / "b",)]
    (case,) = find_images(tmp_path / "a")
    assert (case.id, case.images) == ("a", (tmp_path / "a",))
    (case,) = find_images(tmp_path / "a" / "IM0000.dcm")
    assert case.images == (tmp_path / "a" / "IM0000.dcm",)


def tree_of_patients(root: Path, cases: int = 2) -> Path:
    """Patients with two series in folders of their own, T1 and T2, and a label of T1 beside them."""
    for number in range(cases):
        patient = root / f"patient{number}"
        write_series(patient / "study" / "s1", voxels(seed=number), description="T1 ax")
        write_series(patient / "study" / "s2", voxels((4, 6, 7), seed=number), description="T2 ax")
        write_volume(patient / "seg.nii.gz", np.zeros((5, 6, 7), np.uint8))
    return root


def test_a_tree_of_patients_is_a_case_each_with_its_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    root = tree_of_patients(tmp_path)
    config = DataConfig(source="dicom", root=root)
    first, _ = find_cases(config).cases
    assert caplog.messages == []
    assert (first.id, first.images) == ("patient0", (root / "patient0",))
    assert first.label == root / "patient0" / "seg.nii.gz"
    first, second = find_cases(config.model_copy(update={"dicom_series": "t2*"})).cases
    assert first.images == (root / "patient0" / "study" / "s2" / "IM0000.dcm",)
    assert caplog.messages == []
    assert read_header(first.images[0]).shape == (4, 6, 7)
    assert cache_key(first.files, {}) != cache_key(second.files, {})
    (reason,) = [problem.reason for problem in check_case(find_cases(config).cases[0])]
    assert reason.startswith("2 series: 'T1 ax' (…")


def test_the_series_decides_what_the_cache_holds(tmp_path: Path) -> None:
    write_series(tmp_path / "p", voxels(), description="T1", name=lambda k: f"a{k}")
    write_series(tmp_path / "p", voxels(seed=1), description="T2", name=lambda k: f"b{k}")
    config = DataConfig(source="dicom", root=tmp_path)
    (first,), (second,) = (find_cases(config.model_copy(update={"dicom_series": name})).cases for name in ("T1", "T2"))
    assert cache_key(first.files, {}) != cache_key(second.files, {})
    assert set(parts_of(first.files)) == set(parts_of(second.files)) == set((tmp_path / "p").iterdir())
    before = cache_key(first.files, {})
    (tmp_path / "p" / "a3").touch()
    assert cache_key(first.files, {}) != before


def test_patients_without_the_series_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree_of_patients(tmp_path)
    write_series(tmp_path / "patient2", voxels(), description="scout")
    config = DataConfig(source="dicom", root=root, dicom_series="T1 ax")
    assert [case.id for case in find_cases(config).cases] == ["patient0", "patient1"]
    assert "data.dicom_series=T1 ax: left out 1 folders without it: " in caplog.text
    assert "'scout' (…" in caplog.text
    with pytest.raises(ValueError, match=r"data.dicom_series='flair': no folder holds such a series; .*T1 ax"):
        find_cases(config.model_copy(update={"dicom_series": "flair"}))


def test_a_label_in_doubt_is_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path / "p" / "ct", voxels())
    for name in ("ct.nii.gz", "ct_seg.nii.gz"):
        (tmp_path / "p" / name).touch()
    config = DataConfig(source="dicom", root=tmp_path)
    assert find_cases(config).cases[0].label == tmp_path / "p" / "ct_seg.nii.gz"
    (tmp_path / "p" / "mask.nii").touch()
    with pytest.raises(ValueError, match=r"p: which is the label, ct_seg.nii.gz, mask.nii\? leave one"):
        find_cases(config)


def test_objects_that_are_no_labels_are_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "p" / "ct", voxels())
    write_object(tmp_path / "p" / "rt" / "structures.dcm", "RTSTRUCT")
    (case,) = find_cases(DataConfig(source="dicom", root=tmp_path)).cases
    assert check_case(case) == []
    assert "convert SEG with segimage2itkimage, RTSTRUCT with dcmrtstruct2nii" in caplog.text
    (problem,) = check_case(replace(case, label=tmp_path / "p" / "rt"))
    assert problem.reason == (
        "a DICOM RTSTRUCT object, no image; convert it with dcmrtstruct2nii, and name the NIfTI file as the label"
    )


def test_layouts_are_recognised(tmp_path: Path) -> None:
    assert recognise(tree_of_patients(tmp_path / "tree"))["data"]["source"] == "dicom"
    assert recognise(write_series(tmp_path / "one", voxels()))["data"]["source"] == "dicom"
    write_series(tmp_path / "two" / "images" / "case1", voxels())
    write_volume(tmp_path / "two" / "labels" / "case1.nii.gz", np.zeros((5, 6, 7), np.uint8))
    assert recognise(tmp_path / "two")["data"]["source"] == "folders"
    (case,) = find_cases(DataConfig(source="folders", root=tmp_path / "two")).cases
    assert (case.id, case.label) == ("case1", tmp_path / "two" / "labels" / "case1.nii.gz")


def test_loose_files_in_folders_of_images_and_labels_are_explained(tmp_path: Path) -> None:
    write_series(tmp_path / "images", voxels())
    (tmp_path / "labels").mkdir()
    config = DataConfig(source="folders", root=tmp_path)
    with pytest.raises(ValueError, match="images: DICOM slices; move those of each case to a folder of their own"):
        find_cases(config)
    write_object(tmp_path / "labels" / "case1.dcm", "SEG")
    with pytest.raises(ValueError, match="labels: DICOM files; convert SEG with segimage2itkimage"):
        find_cases(config)


def test_files_beside_the_images_are_counted(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "p", voxels())
    (folder / "DICOMDIR").touch()
    (folder / "README").touch()
    write_object(folder / "rt.dcm", "RTSTRUCT")
    found = survey(tmp_path)
    assert ("ignored", "no DICOM (2 files), RTSTRUCT (1 files)") in found.kind.table(found.cases, None)


@pytest.mark.parametrize(("slices", "pattern"), [("ct", "*/ct"), (".", "*")])
def test_a_patient_s_folder_with_slices_and_a_label(tmp_path: Path, slices: str, pattern: str) -> None:
    for patient in ("p1", "p2"):
        write_series(tmp_path / patient / slices, voxels())
        (tmp_path / patient / "seg.nii.gz").touch()
    assert guess_patterns(tmp_path) == Guess((pattern,), "*/seg.nii.gz")
    listing = find_cases(DataConfig(source="folders", root=tmp_path, images=pattern, labels="*/seg.nii.gz"))
    assert [(case.id, case.images, case.label) for case in listing.cases] == [
        (patient, (tmp_path / patient / slices,), tmp_path / patient / "seg.nii.gz") for patient in ("p1", "p2")
    ]


def test_series_in_folders_of_one_name_can_be_channels(tmp_path: Path) -> None:
    for patient in ("p0", "p1"):
        write_series(tmp_path / patient / "t1", voxels(), description="T1")
        write_series(tmp_path / patient / "t2", voxels(seed=1), description="T2")
        write_volume(tmp_path / patient / "seg.nii.gz", np.zeros((5, 6, 7), np.uint8))
    config = DataConfig(source="folders", root=tmp_path, images=("*/t1", "*/t2"), labels="*/seg.nii.gz")
    first, _ = find_cases(config).cases
    assert first.images == (tmp_path / "p0" / "t1", tmp_path / "p0" / "t2")
    assert first.label == tmp_path / "p0" / "seg.nii.gz"
