"""Phantoms: the files' layout and variety, determinism, and structures that can be learned."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from data.synthetic.phantoms import CLASS_NAMES, main, make_phantom, write_phantoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, cases=9, seed=3, shape=(20, 28, 24))
    return folder


def load(folder: Path) -> list[tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]]:
    listing = json.loads((folder / "dataset.json").read_text())["training"]
    return [(nibabel.load(folder / case["image"]), nibabel.load(folder / case["label"])) for case in listing]


def test_dataset_json_is_a_decathlon_listing(folder: Path) -> None:
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["labels"] == {"0": "background", "1": "nucleus", "2": "crescent", "3": "vessel"}
    assert facts["modality"] == {"0": "MRI"}
    assert facts["numTraining"] == len(facts["training"]) == 9
    assert facts["training"][4] == {
        "image": "./imagesTr/phantom_004.nii.gz",
        "label": "./labelsTr/phantom_004.nii.gz",
    }


def test_image_and_label_share_a_grid_and_every_class_is_there(folder: Path) -> None:
    for image, label in load(folder):
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2, 3}
        assert np.isfinite(image.get_fdata()).all()


def test_orientation_spacing_and_dtype_vary(folder: Path) -> None:
    images = [image for image, _ in load(folder)]
    assert len({nibabel.aff2axcodes(image.affine) for image in images}) > 5
    assert {image.get_data_dtype().name for image in images} == {"int16", "float32", "uint8"}
    assert images[2].dataobj.slope != 1
    spacings = np.array([image.header.get_zooms() for image in images])
    assert (spacings.max(axis=1) / spacings.min(axis=1) > 1.1).all()
    oblique = [np.count_nonzero(np.abs(image.affine[:3, :3]) > 0.01) > 3 for image in images]
    assert all(oblique)


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", cases=2, seed=3, shape=(20, 28, 24))
    for name in ("imagesTr/phantom_001.nii.gz", "labelsTr/phantom_001.nii.gz"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_size_and_extent() -> None:
    image, label, affine = make_phantom(np.random.default_rng(0))
    assert image.shape == label.shape
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing * image.shape, [68, 80, 64], rtol=0.05)


@pytest.mark.slow
def test_intensity_alone_tells_the_vessel_but_not_nucleus_from_crescent() -> None:
    gaps = []
    for seed in range(6):
        image, label, _ = make_phantom(np.random.default_rng(seed))
        nucleus, crescent, vessel = (image[label == value] for value in (1, 2, 3))
        gaps.append(abs(np.median(nucleus) - np.median(crescent)) / np.median(nucleus))
        tissue = ndimage.binary_dilation(label > 0, iterations=2) & (label == 0)
        assert np.median(vessel) > np.median(image[tissue]) * 1.3
    assert np.median(gaps) < 0.15


@pytest.mark.slow
def test_the_vessel_is_thin_but_two_voxels_wide_at_the_working_spacing() -> None:
    for seed in range(6):
        _, label, affine = make_phantom(np.random.default_rng(seed))
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        vessel = ndimage.zoom((label == CLASS_NAMES.index("vessel")).astype(np.float32), spacing / 1.5, order=1)
        width_voxels = 2 * ndimage.distance_transform_edt(vessel > 0.5).max()
        assert 2 <= width_voxels <= 6


def test_the_command_says_where_the_files_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "made"), "--cases", "1", "--seed", "5"]) == 0
    assert f"1 phantoms: {tmp_path / 'made' / 'dataset.json'}" in capsys.readouterr().out
    assert main([str(tmp_path / "made")]) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_no_cases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cases=0 must be at least 1"):
        write_phantoms(tmp_path / "none", cases=0)
