from pathlib import Path

import numpy as np
import pytest

from data.files.volumes import FileProblem, read_header, read_image, read_label, write_volume

VALUES = np.random.default_rng(0).integers(0, 3, (6, 5, 4)).astype(np.int16)  # (D, H, W)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_dhw_with_unit_voxels(tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(VALUES, order=order))  # type: ignore[call-overload]
    volume, grid, source = read_image(tmp_path / "a.npy")
    label, _, _ = read_label(tmp_path / "a.npy")

    assert np.array_equal(volume[..., 0], VALUES)
    assert np.array_equal(label, VALUES)
    assert (grid.shape, grid.spacing_mm, source.axis_codes) == ((6, 5, 4), (1, 1, 1), "RAS")


def test_npz_may_hold_spacing(tmp_path: Path) -> None:
    channels = np.stack([VALUES, VALUES + 1], axis=-1)
    np.savez_compressed(tmp_path / "a.npz", volume=channels, spacing_mm=[4.0, 3, 2])
    volume, grid, _ = read_image(tmp_path / "a.npz")

    assert np.array_equal(volume, channels)
    assert grid.spacing_mm == (4, 3, 2)
    assert np.array_equal(np.diag(grid.affine), (2, 3, 4, 1))


def test_npz_may_hold_an_affine_that_is_not_ras(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", VALUES, affine=np.diag([-2.0, 3, 4, 1]))
    volume, grid, source = read_image(tmp_path / "a.npz")

    assert source.axis_codes == "LAS"
    assert np.array_equal(volume[..., 0], VALUES[:, :, ::-1])
    assert np.array_equal(grid.affine[:3, 3], [-6, 0, 0])


def test_predictions_of_arrays_are_nifti(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", VALUES, affine=np.diag([-2.0, 3, 4, 1]))
    label, grid, source = read_label(tmp_path / "a.npz")
    again, again_grid, _ = read_label(write_volume(tmp_path / "p.nii.gz", label, source))

    assert np.array_equal(again, label)
    assert np.array_equal(again_grid.affine, grid.affine)


def test_a_truncated_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((60, 50, 40)))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:5000])
    assert len(read_header(tmp_path / "a.npy").problems) == 1
    with pytest.raises(FileProblem, match="truncated: its header promises 960 kB, it can hold 5 kB"):
        read_image(tmp_path / "a.npy")


def test_a_member_that_promises_terabytes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data.replace(b"(4, 5, 6), }         ", b"(40000, 50000, 6000),}")[: len(data)])
    with pytest.raises(FileProblem, match=r"truncated: its header promises 12 TB|not a NumPy array"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": VALUES, "b": VALUES}, "holds the arrays a, b, expected one volume"),
        ({"spacing_mm": np.ones(3)}, "holds the arrays spacing_mm, expected one volume"),
        ({"a": VALUES, "affine": np.eye(3)}, r"affine of shape \(3, 3\)"),
        ({"a": VALUES, "affine": np.zeros((4, 4))}, "the affine has no inverse"),
        ({"a": VALUES[0]}, "2-D data"),
        ({"a": VALUES.astype(complex)}, "complex data"),
        ({"a": np.array([[["a", "b"]] * 3] * 3)}, "expected numbers"),
    ],
)
def test_what_is_no_volume(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(FileProblem, match=reason):
        read_image(tmp_path / "a.npz")


def test_damaged_archives(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK not a zip")
    (tmp_path / "a.npy").write_bytes(b"not an array")
    np.savez_compressed(tmp_path / "b.npz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[2000:2100] = bytes(100)
    (tmp_path / "b.npz").write_bytes(bytes(data))

    with pytest.raises(FileProblem, match=r"damaged .npz archive"):
        read_image(tmp_path / "a.npz")
    with pytest.raises(FileProblem, match="not a NumPy array, or a damaged one"):
        read_image(tmp_path / "a.npy")
    with pytest.raises(FileProblem, match="damaged"):
        read_image(tmp_path / "b.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 3, 3), {"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(FileProblem, match="expected numbers"):
        read_image(tmp_path / "a.npy")


def test_an_encrypted_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", VALUES)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1  # the flags of the member, there and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(FileProblem, match=r"a\.npz: an encrypted archive; save it without a password"):
        read_image(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("spacing", "said"),
    [
        (["1", "2", "3"], r"spacing_mm of <U1 \(3,\)"),
        (np.array([1, None, 2], dtype=object), r"spacing_mm of object \(3,\)"),
        ([1j, 2, 3], r"spacing_mm of complex128 \(3,\)"),
        (np.ones(1000), r"spacing_mm of float64 \(1000,\)"),
        ([1.0, 2.0], r"spacing_mm or affine of shape \(2,\)"),
    ],
)
def test_a_spacing_that_is_none(tmp_path: Path, spacing: object, said: str) -> None:
    np.savez(tmp_path / "a.npz", VALUES, spacing_mm=spacing)
    with pytest.raises(FileProblem, match=rf"a\.npz: {said}, expected .*; save it again"):
        read_header(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "facts",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 5,",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': 'no type', 'fortran_order': False, 'shape': (4, 5, 6)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-4, 5, 6)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 'abc'}",
        "(" * 4000,
        "{'descr': [], 'fortran_order': False, 'shape': (4, 5, 6)}",
        "[]",
    ],
)
def test_malformed_headers(tmp_path: Path, facts: str) -> None:
    head = facts.encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(960))
    with pytest.raises(FileProblem, match=r"a\.npy: (not a NumPy array, or a damaged one|no voxels|RGB data)"):
        read_image(tmp_path / "a.npy")


def test_archives_cut_anywhere(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", VALUES, spacing_mm=[1.0, 2, 3])
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b.npz").write_bytes(whole[:length])
        with pytest.raises(FileProblem, match=r"b\.npz: damaged \.npz archive"):
            read_image(tmp_path / "b.npz")
