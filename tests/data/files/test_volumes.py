import csv
import gzip
import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.files.volumes import (
    FileProblem,
    read_header,
    read_image,
    read_label,
    require_classes,
    require_finite,
    write_volume,
)

RNG = np.random.default_rng(0)
LPS = np.array([[-2.0, 0, 0, 10], [0, -3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])


def saved(path: Path, values: np.ndarray, affine: np.ndarray = LPS, kind: type = nibabel.Nifti1Image) -> Path:
    nibabel.save(kind(values, affine), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_an_image_comes_to_ras(tmp_path: Path, name: str, kind: type) -> None:
    values = RNG.integers(-1000, 3000, (4, 5, 6)).astype(np.int16)
    volume, grid, source = read_image(saved(tmp_path / name, values, kind=kind))

    assert volume.dtype == np.float32
    assert np.array_equal(volume[..., 0], values[::-1, ::-1].T)
    assert grid.shape == (6, 5, 4)
    assert grid.spacing_mm == (4, 3, 2)
    assert np.array_equal(grid.affine[:3, 3], [10 - 3 * 2, 20 - 4 * 3, 30])
    assert (source.axis_codes, source.shape) == ("LPS", (4, 5, 6))


def test_scale_factors_and_byte_order_are_honoured(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(RNG.integers(-9, 9, (4, 5, 6)).astype(np.int16), np.eye(4), header)
    image.header.set_slope_inter(0.25, -3)
    nibabel.save(image, tmp_path / "a.nii")
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled())

    volume, _, _ = read_image(tmp_path / "a.nii")
    header_read = read_header(tmp_path / "a.nii")

    assert header_read.dtype == np.dtype(">i2")
    assert (header_read.slope, header_read.inter) == (0.25, -3)
    assert np.array_equal(volume[..., 0], (stored * 0.25 - 3).T)


def test_large_integers_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    values = np.full((4, 5, 6), 2**30 + 1, dtype=np.int32)
    image = nibabel.Nifti1Image(values, np.eye(4))
    path = saved(tmp_path / "a.nii", values, np.eye(4))
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(image.header.binaryblock)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 1, -(2.0**30), 352
    data[:348] = header.binaryblock
    path.write_bytes(bytes(data))

    assert np.all(read_image(path)[0] == 1)


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 5, 6), 1), ((4, 5, 6, 1), 1), ((4, 5, 6, 3), 3), ((4, 5, 6, 1, 3), 3)]
)
def test_further_axes_become_channels(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    values = RNG.normal(size=shape).astype(np.float32)
    path = saved(tmp_path / "a.nii.gz", values, np.eye(4))
    volume, _, _ = read_image(path)

    assert volume.shape == (6, 5, 4, channels)
    assert volume.flags["C_CONTIGUOUS"]
    assert np.array_equal(volume, values.reshape(4, 5, 6, channels).transpose(2, 1, 0, 3))
    assert read_header(path).channels == channels


def test_micrometres_are_brought_to_mm(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([500.0, 250, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    label, grid, source = read_label(tmp_path / "a.nii")

    assert grid.spacing_mm == (2, 0.25, 0.5)
    write_volume(tmp_path / "b.nii", label, source)
    assert np.array_equal(nibabel.load(tmp_path / "b.nii").affine, image.affine)  # as in the source, in its unit


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_are_whole_numbers_of_any_type(tmp_path: Path, dtype: type) -> None:
    values = RNG.integers(0, 3, (4, 5, 6)).astype(dtype)
    label, _, _ = read_label(saved(tmp_path / "a.nii.gz", values))

    assert label.dtype == np.uint8
    assert np.array_equal(label, values[::-1, ::-1].T)


def test_labels_beyond_a_byte_and_below_zero_are_kept(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.int16)
    values[0, 0, 0], values[1, 0, 0] = 300, -1
    label, _, _ = read_label(saved(tmp_path / "a.nii", values))

    assert label.dtype == np.int32
    assert (label.min(), label.max()) == (-1, 300)


def rescaled(path: Path, values: np.ndarray, slope: float, inter: float) -> Path:
    """A file whose scale factors were set over the values that it stores."""
    data = bytearray(saved(path, values).read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]))
    header["scl_slope"], header["scl_inter"] = slope, inter
    data[:348] = header.binaryblock
    path.write_bytes(bytes(data))
    return path


CLASSES = np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 3


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [
        (2, 0, (0, 2, 4)),
        (0.5, 7, None),
        (1, 5, (5, 6, 7)),
        (-1, 2, (2, 1, 0)),
        (0, 9, (0, 1, 2)),  # as NIfTI has it, none
        (np.nan, 0, (0, 1, 2)),
        (1.0004, 0, (0, 1, 2)),  # half a step of 1, but never more than 0.05
        (1.02, 0, (0, 1, 2)),
        (1.03, 0, None),
    ],
)
def test_scale_factors_of_labels(
    tmp_path: Path, slope: float, inter: float, expected: tuple[int, int, int] | None
) -> None:
    path = rescaled(tmp_path / "a.nii", CLASSES, slope, inter)
    if expected is None:
        with pytest.raises(
            FileProblem, match=r"a\.nii: label values that are not whole numbers: .*save the label as int"
        ):
            read_label(path)
        return
    label = read_label(path)[0]
    assert np.array_equal(label, np.array(expected)[CLASSES[::-1, ::-1].T])
    if slope in (2, 1, -1):
        assert np.array_equal(label[:, ::-1, ::-1].T, np.asarray(nibabel.load(path).dataobj))


@pytest.mark.parametrize("classes", [3, 118, 600, 30_000])
def test_a_float_label_that_was_packed_into_int16(tmp_path: Path, classes: int) -> None:
    """nibabel stores classes 0, 1, 2 as -32768, 0, 32767, with a slope and an intercept."""
    values = np.linspace(0, classes - 1, 120).round().reshape(4, 5, 6)
    image = nibabel.Nifti1Image(values, LPS)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_header(tmp_path / "a.nii").scaled
    if classes == 30_000:  # a step of 0.46 holds no whole numbers
        with pytest.raises(FileProblem, match="not whole numbers"):
            read_label(tmp_path / "a.nii")
        return
    assert np.array_equal(read_label(tmp_path / "a.nii")[0][:, ::-1, ::-1].T, values)


def test_scale_factors_that_make_labels_equal(tmp_path: Path) -> None:
    path = rescaled(tmp_path / "a.nii", CLASSES, 1e-4, 1)
    said = r"a\.nii: scale factors \(slope 0\.0001, intercept 1\) that make different labels equal; save the label as"
    with pytest.raises(FileProblem, match=said):
        read_label(path)


def test_label_values_that_are_not_whole(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.float32)
    values[0, 0, :3], values[1, 1, 1] = 0.5, 1.25
    with pytest.raises(FileProblem, match=r"a\.nii: label values that are not whole numbers: 0\.5, 1\.25, 4 voxels"):
        read_label(saved(tmp_path / "a.nii", values))
    values[0, 0, :3] = np.nan
    with pytest.raises(FileProblem, match=r"not whole numbers: 1.25, nan, 4 voxels"):
        read_label(saved(tmp_path / "a.nii", values))


def test_a_label_with_channels(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="label with 2 channels, expected one integer map"):
        read_label(saved(tmp_path / "a.nii", np.zeros((4, 5, 6, 2), np.uint8)))


def test_label_values_outside_the_classes() -> None:
    label = np.zeros((4, 5, 6), np.int32)
    label[0, 0, :2], label[0, 1, 0] = 3, -1

    require_classes(label, 4, "a.nii", ignore_label=-1)
    said = r"a\.nii: label values outside 0…2: -1, 3, 3 voxels; .*data\.class_names .*'data\.label_map=\{-1: 0, 3: 1\}'"
    with pytest.raises(FileProblem, match=said):
        require_classes(label, 3, "a.nii")


def test_voxels_that_are_not_finite() -> None:
    volume = np.zeros((4, 5, 6, 1), np.float32)
    require_finite(volume, "a.nii")
    volume[0, 0, :2], volume[1, 0, 0], volume[1, 0, 1] = np.nan, np.inf, -np.inf
    with pytest.raises(FileProblem, match=r"a\.nii: 2 NaN and 2 infinite voxels of 120"):
        require_finite(volume, "a.nii")


@pytest.mark.parametrize("name", ["a.txt", "a.png"])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(FileProblem, match=r"not a volume by its name; expected one of .nii, .nii.gz"):
        read_image(tmp_path / name)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").mkdir()
    for name, reason in [("a.nii.gz", "no such file"), ("a.npy", "no such file"), ("b.nii.gz", "is a folder")]:
        with pytest.raises(FileProblem, match=reason):
            read_image(tmp_path / name)


def test_a_problem_survives_pickling() -> None:
    problem = pickle.loads(pickle.dumps(FileProblem("a.nii", "broken", "fix it")))

    assert str(problem) == "a.nii: broken; fix it"
    assert (problem.path, problem.reason) == (Path("a.nii"), "broken")


class TestWriting:
    def test_labels_go_back_to_the_files_grid(self, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(RNG.normal(size=(4, 5, 6)).astype(np.float32), None)
        sform, qform = LPS + RNG.normal(scale=1e-3, size=(4, 4)) * [[1], [1], [1], [0]], LPS
        image.set_sform(sform, code=4)
        image.set_qform(qform, code=2)
        image.header.set_xyzt_units("mm", "sec")
        image.header["cal_max"], image.header["descrip"] = 7, b"scanner"
        nibabel.save(image, tmp_path / "a.nii.gz")
        original = nibabel.load(tmp_path / "a.nii.gz").header
        stored = RNG.integers(0, 3, (4, 5, 6))
        source = read_image(tmp_path / "a.nii.gz")[2]

        path = write_volume(tmp_path / "out" / "p.nii.gz", source.orientation.to_dhw(stored), source)
        written = nibabel.load(path)

        assert written.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(written.dataobj), stored)
        assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
        assert np.array_equal(written.get_sform(), original.get_sform())
        assert np.array_equal(written.get_qform(), original.get_qform())
        for field in ("sform_code", "qform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_y"):
            assert np.array_equal(written.header[field], original[field]), field
        assert written.header["cal_max"] == 0
        assert [file.name for file in path.parent.iterdir()] == ["p.nii.gz"]  # no partial file is left

    def test_a_round_trip_gives_the_same_array(self, tmp_path: Path) -> None:
        source = read_image(saved(tmp_path / "a.nii", np.zeros((4, 5, 6), np.float32)))[2]
        label = RNG.integers(0, 400, (6, 5, 4))

        again, grid, _ = read_label(write_volume(tmp_path / "p.nii", label, source))

        assert np.array_equal(again, label)
        assert np.array_equal(grid.affine, source.grid.affine)
        assert nibabel.load(tmp_path / "p.nii").get_data_dtype() == np.uint16

    def test_probabilities_are_4d_floats(self, tmp_path: Path) -> None:
        source = read_image(saved(tmp_path / "a.nii", np.zeros((4, 5, 6), np.float32), kind=nibabel.Nifti2Image))[2]
        probabilities = RNG.random((6, 5, 4, 3))

        path = write_volume(tmp_path / "p.nii.gz", probabilities, source)
        written = nibabel.load(path)

        assert isinstance(written, nibabel.Nifti2Image)
        assert written.shape == (4, 5, 6, 3)
        assert written.get_data_dtype() == np.float32
        assert np.array_equal(read_image(path)[0], probabilities.astype(np.float32))

    def test_the_same_volume_gives_the_same_bytes(self, tmp_path: Path) -> None:
        source = read_image(saved(tmp_path / "a.nii", np.zeros((4, 5, 6), np.float32)))[2]
        first, second = (write_volume(tmp_path / f"{n}.nii.gz", np.ones((6, 5, 4), int), source) for n in "ab")
        assert first.read_bytes() == second.read_bytes()

    def test_mistakes_are_named(self, tmp_path: Path) -> None:
        source = read_image(saved(tmp_path / "a.nii", np.zeros((4, 5, 6), np.float32)))[2]
        with pytest.raises(ValueError, match=r"expected a volume of \(6, 5, 4\), the grid of .*a.nii; got \(4, 5, 6\)"):
            write_volume(tmp_path / "p.nii", np.zeros((4, 5, 6), np.uint8), source)
        with pytest.raises(ValueError, match=r"p.npy: predictions are written as \.nii\.gz, \.nii"):
            write_volume(tmp_path / "p.npy", np.zeros((6, 5, 4), np.uint8), source)
        for wrong in (np.full((6, 5, 4), -1), np.full((6, 5, 4), 70_000)):
            with pytest.raises(ValueError, match="are no uint"):
                write_volume(tmp_path / "p.nii", wrong, source)
        assert not list(tmp_path.glob("*p.nii*"))


def zoo_rows(datasets: Path) -> list[dict[str, str]]:
    with (datasets / "nifti-zoo" / "table.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_loadable_file_of_the_zoo_reads_and_writes(datasets: Path, tmp_path: Path) -> None:
    rows = [row for row in zoo_rows(datasets) if row["class"] != "ERROR"]
    assert len(rows) >= 29
    for row in rows:
        path = datasets / "nifti-zoo" / row["file"]
        header = read_header(path)
        volume, grid, source = read_image(path)
        size = [int(n) for n in row["shape"].split("x")]
        channels = int(np.prod(size[3:]))
        zooms = [float(z) for z in row["zooms"].split()]

        assert source.shape == tuple(size[:3]), path
        assert volume.shape == (*grid.shape, channels) == (*header.shape, header.channels), path
        assert sorted(grid.shape) == sorted(size[:3]), path
        assert source.axis_codes == header.orientation == row["orient"], path
        file_spacing = np.linalg.norm(source.affine[:3, :3], axis=0)
        np.testing.assert_allclose(file_spacing, zooms[:3], rtol=2e-3, err_msg=str(path))
        assert grid.spacing_mm == tuple(file_spacing[list(source.orientation.axes)][::-1]), path
        assert header.dtype == np.dtype(row["dtype"]), path
        assert int(np.isnan(volume).sum()) == int(row["nans"]), path
        np.testing.assert_allclose(np.nanmin(volume), float(row["min"]), rtol=1e-6, err_msg=str(path))
        np.testing.assert_allclose(np.nanmax(volume), float(row["max"]), rtol=1e-6, err_msg=str(path))

        label = RNG.integers(0, 3, grid.shape)
        written = write_volume(tmp_path / "p.nii.gz", label, source)
        again, again_grid, again_source = read_label(written)
        assert np.array_equal(again, label), path
        assert np.array_equal(again_source.affine, source.affine), path
        assert np.array_equal(again_grid.affine, grid.affine), path
        if row["class"] != "Spm2AnalyzeImage":
            before, after = nibabel.load(path), nibabel.load(written)
            assert np.array_equal(before.affine, after.affine), path
            for field in ("sform_code", "qform_code", "srow_x", "quatern_c", "qoffset_z"):
                assert np.array_equal(before.header[field], after.header[field]), (path, field)


def test_the_other_files_of_the_zoo_are_refused_in_one_line(datasets: Path) -> None:
    reasons = {}
    for row in zoo_rows(datasets):
        if row["class"] == "ERROR":
            with pytest.raises(FileProblem) as caught:
                read_image(datasets / "nifti-zoo" / row["file"])
            assert "\n" not in str(caught.value)
            reasons[Path(row["file"]).name] = caught.value.reason
    assert reasons == {
        "analyze.hdr": "header without image: analyze.img beside it is missing",
        "nifti1.hdr": "header without image: nifti1.img beside it is missing",
        "nifti2.hdr": "header without image: nifti2.img beside it is missing",
        "row_major.dconn.nii": "CIFTI-2 data (brain models, no voxel grid)",
    }


def test_a_real_truncated_file(datasets: Path, tmp_path: Path) -> None:
    whole = (datasets / "nifti-zoo/nibabel/nibabel/tests/data/example4d.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileProblem, match="truncated gzip data"):
        read_image(tmp_path / "a.nii.gz")


def test_a_gzipped_file_that_forgot_its_ending(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", np.ones((4, 5, 6), np.uint8))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert np.all(read_image(path)[0] == 1)
