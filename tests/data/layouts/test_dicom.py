"""Folders of DICOM slices as cases, in the layouts that hold volumes."""

from pathlib import Path

from data.layouts.cases import list_volumes, stem
from data.layouts.folders import find_images
from tests.data.dicom_files import voxels, write_series


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
