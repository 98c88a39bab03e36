import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.files.volumes import FileProblem, read_header, read_image, read_label, write_volume

Edit = Callable[[nibabel.Nifti1Header], None]


def edited(path: Path, edit: Edit, shape: tuple[int, ...] = (4, 5, 6)) -> Path:
    """A file of zeros whose header was changed afterwards."""
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    edit(header)
    data[:348] = header.binaryblock
    path.write_bytes(bytes(data))
    return path


def forms(header: nibabel.Nifti1Header) -> None:
    header.set_sform(np.diag([1.0, 1, 1, 1]), code=2)
    header.set_qform(np.array([[1.0, 0, 0, 12], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), code=1)


def promise(header: nibabel.Nifti1Header) -> None:
    header.set_data_shape((32000, 32000, 2000))


def flat(header: nibabel.Nifti1Header) -> None:
    header.set_sform(np.diag([1.0, 1, 0, 1]), code=2)


def not_a_number(header: nibabel.Nifti1Header) -> None:
    header["srow_x"] = [1, 0, 0, np.nan]


def cifti(header: nibabel.Nifti1Header) -> None:
    header["intent_code"] = 3001


def unknown_type(header: nibabel.Nifti1Header) -> None:
    header["datatype"] = 999


def negative(header: nibabel.Nifti1Header) -> None:
    header["dim"][1] = -4


def wrong_magic(header: nibabel.Nifti1Header) -> None:
    header["magic"] = b"abc"


def pair_magic(header: nibabel.Nifti1Header) -> None:
    header["magic"] = b"ni1"


def setting(field: str, value: object) -> Edit:
    def edit(header: nibabel.Nifti1Header) -> None:
        header[field] = value

    return edit


def axes(number: int) -> Edit:
    def edit(header: nibabel.Nifti1Header) -> None:
        header["dim"][0] = number

    return edit


def only_qform(b: float) -> Edit:
    def edit(header: nibabel.Nifti1Header) -> None:
        header["sform_code"], header["qform_code"] = 0, 1
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = b, 0, 0

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (setting("vox_offset", np.nan), r"the voxels' place in the file \(vox_offset\) is nan; restore the file"),
        (setting("vox_offset", -np.inf), r"the voxels' place in the file \(vox_offset\) is -inf; restore"),
        (setting("vox_offset", -400), r"the voxels' place in the file \(vox_offset\) is -400; restore"),
        (axes(0), r"dim\[0\]=0 in its header, expected 1 to 7 axes; restore the file"),
        (axes(-1), r"dim\[0\]=-1 in its header, expected 1 to 7 axes"),
        (axes(8), r"dim\[0\]=8 in its header, expected 1 to 7 axes"),
        (axes(256), r"dim\[0\]=256 in its header, expected 1 to 7 axes"),
        (setting("magic", b"n+2"), r"a header of 348 bytes with the magic b'n\+2\\x00', which is another version's"),
        (setting("srow_x", [1e30, 0, 0, 0]), r"the affine holds a value of 1e\+30; set the voxel sizes and directions"),
        (setting("srow_x", [1e-20, 0, 0, 0]), r"voxel edges of 1e-20 × 1 × 1 mm; set the voxel sizes"),
        (only_qform(np.nan), "the affine holds NaN or infinite values"),
        (forms, r"sform and qform \(codes 2 and 1\) disagree by up to 12.*the sform would be used here"),
        (promise, r"truncated: header promises 2048000000352 bytes \(2.048 TB\), the file holds 472"),
        (flat, r"the affine has no inverse \(voxel edges 1 × 1 × 0 mm\)"),
        (not_a_number, "the affine holds NaN or infinite values"),
        (cifti, "CIFTI-2 data"),
        (unknown_type, r"unusable header \(data code 999 not recognized"),
        (negative, "no voxels|unusable header"),
        (wrong_magic, "not a NIfTI file"),
        (pair_magic, "its header belongs to an .hdr/.img pair"),
    ],
)
def test_a_bad_header_is_refused_with_its_reason(tmp_path: Path, edit: Edit, reason: str) -> None:
    path = edited(tmp_path / "a.nii", edit)
    with pytest.raises(FileProblem, match=rf"a\.nii: ({reason})") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_a_gzipped_header_that_promises_terabytes(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.nii", promise)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))

    problems = read_header(tmp_path / "b.nii.gz").problems

    assert [problem.reason for problem in problems] == [
        f"header promises 2.048 TB, more than {(tmp_path / 'b.nii.gz').stat().st_size} bytes of gzip can hold"
    ]


def test_forms_that_agree_within_tolerance_are_fine(tmp_path: Path) -> None:
    def edit(header: nibabel.Nifti1Header) -> None:
        forms(header)
        header["qoffset_x"] = 0.09

    assert read_header(edited(tmp_path / "a.nii", edit)).problems == ()
    assert read_header(edited(tmp_path / "b.nii", forms)).problems != ()


def test_a_form_whose_code_is_0_does_not_count(tmp_path: Path) -> None:
    def edit(header: nibabel.Nifti1Header) -> None:
        forms(header)
        header["sform_code"] = 0

    header = read_header(edited(tmp_path / "a.nii", edit))
    assert header.problems == ()
    assert header.grid.affine[0, 3] == 12


@pytest.mark.parametrize("length", [1.0000005, 1.4])
def test_a_quaternion_that_is_too_long_is_shortened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: float
) -> None:
    path = edited(tmp_path / "a.nii", only_qform(length))
    assert np.array_equal(read_header(path).source.affine, np.diag([1, -1, -1, 1]))  # half a turn about x
    said = f"{path}: the qform's quaternion has the length 1.4, at most 1 is a rotation; shortened"
    assert caplog.messages == ([said] if length == 1.4 else [])

    def both(header: nibabel.Nifti1Header) -> None:
        only_qform(length)(header)
        header.set_sform(np.diag([1.0, -1, -1, 1]), code=2)

    assert read_header(edited(tmp_path / "b.nii", both)).problems == ()


@pytest.mark.parametrize("seed", range(8))
def test_qforms_are_nibabels(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # a rotation, or one with a mirror
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * rng.uniform(0.5, 3, 3), rng.normal(size=3)
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").affine
    np.testing.assert_allclose(read_header(tmp_path / "a.nii").source.affine, expected, atol=1e-6)


def test_a_bad_qform_beside_a_sform_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(header: nibabel.Nifti1Header) -> None:
        header.set_sform(np.diag([2.0, 3, 4, 1]), code=2)
        header["qform_code"], header["quatern_b"] = 1, np.nan

    path = edited(tmp_path / "a.nii", edit)
    header = read_header(path)
    assert (header.problems, header.spacing_mm) == ((), (4, 3, 2))
    said = "the qform is unusable (the affine holds NaN or infinite values); the sform is used"
    assert caplog.messages == [f"{path}: {said}"]


@pytest.mark.parametrize(("version", "size"), [(nibabel.Nifti1Image, 540), (nibabel.Nifti2Image, 348)])
def test_a_size_of_the_other_version(tmp_path: Path, version: type, size: int) -> None:
    nibabel.save(version(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[:4] = size.to_bytes(4, "little")
    (tmp_path / "a.nii").write_bytes(bytes(data))
    said = r"neither a NIfTI nor an Analyze header \(472 bytes\)" if size == 540 else r"not a NIfTI file \(magic"
    with pytest.raises(FileProblem, match=rf"a\.nii: {said}"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize(("shape", "axes"), [((7,), 1), ((7, 1, 1), 1), ((1, 1, 7), 1), ((1, 1, 1), 0)])
def test_fewer_than_two_axes(tmp_path: Path, shape: tuple[int, ...], axes: int) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(FileProblem, match=rf"a\.nii: {axes}-D data \(shape .*\), expected a volume; convert it"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["A.NII", "A.NII.GZ", "A.Nii.Gz"])
def test_endings_in_capitals(tmp_path: Path, name: str) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), 3, np.uint8), np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert np.all(read_label(tmp_path / name)[0] == 3)


def test_pairs_in_capitals(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.full((4, 5, 6), 3, np.uint8), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").rename(tmp_path / "A.IMG")
    (tmp_path / "a.hdr").rename(tmp_path / "A.HDR")
    assert np.all(read_label(tmp_path / "A.HDR")[0] == 3)
    assert np.all(read_label(tmp_path / "A.IMG")[0] == 3)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 5, 6), (4, 5, 1, 3)])
def test_2d_data(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(FileProblem, match=r"2-D data \(shape .*\), expected a volume; stack the slices"):
        read_image(tmp_path / "a.nii")


def test_too_many_axes(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(FileProblem, match=r"5-D data \(shape 4×5×6×2×3\), expected 3-D or 4-D"):
        read_image(tmp_path / "a.nii")


def test_rgb_and_complex_data(tmp_path: Path) -> None:
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.complex64), np.eye(4)), tmp_path / "complex.nii")

    with pytest.raises(FileProblem, match=r"rgb.nii: RGB data \(3 values a voxel\), expected scalars"):
        read_image(tmp_path / "rgb.nii")
    with pytest.raises(FileProblem, match=r"complex.nii: complex data \(complex64\).*store the magnitude"):
        read_image(tmp_path / "complex.nii")


@pytest.mark.parametrize(("content", "reason"), [(b"", "0 bytes"), (b"hello" * 200, "starts with b'hell'")])
def test_other_content(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(FileProblem, match=f"neither a NIfTI nor an Analyze header .*{reason}"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.Spm2AnalyzeImage])
@pytest.mark.parametrize("gzipped", [False, True])
def test_pairs_are_read_by_either_name(tmp_path: Path, kind: type, gzipped: bool) -> None:
    values = np.random.default_rng(0).integers(0, 300, (4, 5, 6)).astype(np.int16)
    affine = np.diag([-2.0, 3, 4, 1])
    nibabel.save(kind(values, affine), tmp_path / "a.img")
    end = ""
    if gzipped:
        end = ".gz"
        for path in list(tmp_path.glob("a.*")):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            if path.suffix != ".mat":
                path.unlink()
    expected = nibabel.load(tmp_path / f"a.hdr{end}")

    for name in (f"a.hdr{end}", f"a.img{end}"):
        volume, grid, source = read_image(tmp_path / name)
        assert np.array_equal(volume[..., 0], values[::-1].T)
        assert np.array_equal(source.affine, expected.affine)
        assert grid.spacing_mm == (4, 3, 2)


def test_an_analyze_file_without_its_mat_is_written_back_as_nifti(tmp_path: Path) -> None:
    nibabel.save(nibabel.Spm2AnalyzeImage(np.zeros((4, 5, 6), np.int16), np.diag([-2.0, 3, 4, 1])), tmp_path / "a.img")
    (tmp_path / "a.mat").unlink()
    source = read_image(tmp_path / "a.hdr")[2]
    label = np.random.default_rng(0).integers(0, 3, (6, 5, 4))

    written = nibabel.load(write_volume(tmp_path / "p.nii", label, source))
    analyze = nibabel.load(tmp_path / "a.img")

    assert source.format == "analyze"
    assert np.array_equal(written.affine, analyze.affine)
    assert written.header.get_zooms() == (2, 3, 4)
    assert np.array_equal(read_label(tmp_path / "p.nii")[0], label)


def test_a_mat_file_that_is_none(tmp_path: Path) -> None:
    nibabel.save(nibabel.Spm2AnalyzeImage(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.mat").write_text("not a matrix")
    with pytest.raises(FileProblem, match=r"a\.mat: not SPM's affine"):
        read_image(tmp_path / "a.hdr")


def test_half_a_pair(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.img")
    header = (tmp_path / "a.hdr").read_bytes()
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(FileProblem, match=r"image without header: a\.hdr beside it is missing"):
        read_image(tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    (tmp_path / "a.hdr").write_bytes(header)
    with pytest.raises(FileProblem, match=r"header without image: a\.img beside it is missing"):
        read_image(tmp_path / "a.hdr")


def test_what_is_put_right_in_a_header_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(header: nibabel.Nifti1Header) -> None:
        header["pixdim"][1] = -1

    path = edited(tmp_path / "a.nii", edit)
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        read_image(path)
        read_image(path)
    assert caplog.messages == [f"{path}: pixdim[1,2,3] should be positive; setting to abs of pixdim values"]


def test_voxels_begin_behind_the_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = edited(tmp_path / "a.nii", setting("vox_offset", 0))
    assert np.all(read_image(path)[0] == 0)
    assert caplog.messages == [f"{path}: vox_offset is 0; the voxels are taken from byte 352 on"]
