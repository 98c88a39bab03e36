"""Series of slices as volumes: geometry and voxels against SimpleITK, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.files.errors import FileProblem
from data.files.formats.dicom import series
from data.files.formats.dicom.instances import open_plain
from data.files.volumes import read_header, read_image
from planning.survey import slabs, volumes
from tests.data.dicom_files import (
    AXIAL,
    ORIGIN,
    SPACING_MM,
    Dataset,
    moved,
    pydicom,
    turned,
    voxels,
    write_enhanced,
    write_object,
    write_series,
)

CORONAL, SAGITTAL = np.array([[1, 0, 0], [0, 0, -1]]), np.array([[0, 1, 0], [0, 0, -1]])
ORIENTATIONS = {
    "axial": AXIAL,
    "axial, columns to the right": np.diag([-1.0, -1.0, 1.0]),
    "feet first": np.diag([1.0, -1.0, -1.0]),
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "sagittal, rows up": SAGITTAL * [[1], [-1]],
    "oblique by 20 degrees": turned(20),
    "oblique by 50 degrees": turned(50),
}


def stored(folder: Path) -> np.ndarray:
    """Voxels (k, j, i) as stored, in the order of the slices."""
    return series.read_stored(series.read_header(folder))[..., 0].transpose(2, 1, 0)


def refusal(path: Path) -> str:
    with pytest.raises(FileProblem) as caught:
        series.read_stored(series.read_header(path))
    return str(caught.value)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_geometry_and_voxels_are_those_of_simpleitk(tmp_path: Path, name: str) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is what the geometry is compared with")
    volume = voxels()
    folder = write_series(tmp_path / "case", volume, ORIENTATIONS[name])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    source = series.read_header(folder).source
    assert source.shape == image.GetSize()
    np.testing.assert_allclose(source.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-5)
    np.testing.assert_array_equal(stored(folder), sitk.GetArrayFromImage(image))
    np.testing.assert_array_equal(stored(folder), volume)


def test_an_axial_series_comes_in_ras(tmp_path: Path) -> None:
    volume = voxels()
    image, grid, source = read_image(write_series(tmp_path / "case", volume))
    np.testing.assert_array_equal(image[..., 0], volume[:, ::-1, ::-1])  # columns run to the left, rows to the back
    assert source.axis_codes == "LPS"
    np.testing.assert_allclose(grid.spacing_mm, SPACING_MM)
    to_left, to_back = 6 * SPACING_MM[2], 5 * SPACING_MM[1]
    np.testing.assert_allclose(grid.affine[:3, 3], [-ORIGIN[0] - to_left, -ORIGIN[1] - to_back, ORIGIN[2]])


def test_an_enhanced_file_is_its_frames(tmp_path: Path) -> None:
    volume = voxels()
    folder = write_enhanced(tmp_path / "case", volume, turned(20))
    same = series.read_header(write_series(tmp_path / "classic", volume, turned(20)))
    header = series.read_header(folder)
    np.testing.assert_array_equal(stored(folder), volume)
    np.testing.assert_allclose(header.source.affine, same.source.affine, atol=1e-9)
    assert (header.slope, header.inter) == (2, -10)
    assert series.read_header(folder / "enhanced.dcm").shape == header.shape


def test_scale_factors_of_each_slice_are_applied(tmp_path: Path) -> None:
    def change(k: int, slice_: Dataset) -> None:
        slice_.RescaleSlope, slice_.RescaleIntercept = 0.5 + k, -k

    volume = voxels(dtype="uint16")
    image, _, _ = read_image(write_series(tmp_path / "case", volume, change=change))
    slopes = np.arange(5).reshape(5, 1, 1)
    np.testing.assert_allclose(image[..., 0], (volume * (0.5 + slopes) - slopes)[:, ::-1, ::-1], rtol=1e-6)


def test_scale_factors_of_all_slices_stay_apart(tmp_path: Path) -> None:
    def change(k: int, slice_: Dataset) -> None:
        slice_.RescaleSlope, slice_.RescaleIntercept = 2, -1024

    folder = write_series(tmp_path / "case", voxels(dtype="uint16"), change=change)
    header = series.read_header(folder)
    assert (header.slope, header.inter, header.dtype) == (2, -1024, np.uint16)
    np.testing.assert_array_equal(stored(folder), voxels(dtype="uint16"))


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_bits_that_are_not_stored_are_cleared(tmp_path: Path, dtype: str) -> None:
    volume = voxels(dtype=dtype)

    def change(k: int, slice_: Dataset) -> None:
        slice_.BitsStored, slice_.HighBit = 12, 11
        slice_.PixelData = ((volume[k].view(np.uint16) & 0x0FFF) | 0xA000).tobytes()  # an overlay above 12 bits

    np.testing.assert_array_equal(stored(write_series(tmp_path / "case", volume, change=change)), volume)


def test_monochrome1_is_read_as_it_is(tmp_path: Path) -> None:
    def change(k: int, slice_: Dataset) -> None:
        slice_.PhotometricInterpretation = "MONOCHROME1"

    np.testing.assert_array_equal(stored(write_series(tmp_path / "case", voxels(), change=change)), voxels())


@pytest.mark.parametrize("syntax", ["RLELossless", "DeflatedExplicitVRLittleEndian", "ImplicitVRLittleEndian"])
def test_transfer_syntaxes_hold_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    def change(k: int, slice_: Dataset) -> None:
        if syntax == "RLELossless":
            slice_.compress(pydicom.uid.RLELossless)
        slice_.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)

    folder = write_series(tmp_path / "case", voxels(), change=change, name=lambda k: f"slice{k}.dcm")
    np.testing.assert_array_equal(stored(folder), voxels())


def test_jpeg_that_pydicom_cannot_decode_comes_by_simpleitk(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="decodes JPEG-LS")
    file = pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    plain = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    if file is None or plain is None:
        pytest.skip("pydicom came without its test files")
    for k in range(3):
        slice_ = pydicom.dcmread(file)
        slice_.ImagePositionPatient = [0, 0, 2 * k]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.save_as(tmp_path / f"{k}.dcm")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(plain)))[0]
    np.testing.assert_array_equal(stored(tmp_path), np.stack([expected] * 3))


@pytest.mark.parametrize("damage", ["promise", "zeros"])
def test_damaged_jpeg_is_refused_in_a_line(tmp_path: Path, damage: str) -> None:
    pytest.importorskip("SimpleITK", reason="decodes JPEG-LS")
    if (file := pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)) is None:
        pytest.skip("pydicom came without its test files")
    for k in range(3):
        slice_ = pydicom.dcmread(file)
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
        pixels = bytearray(slice_.PixelData)
        first = 16 if pixels[4:8] == bytes(4) else 8 + int.from_bytes(pixels[4:8], "little") + 8
        pixels[first - 4 : first] = b"\xf0\xff\xff\x7f" if damage == "promise" else pixels[first - 4 : first]
        if damage == "zeros":
            pixels[first:] = bytes(len(pixels) - first)
        slice_.PixelData = bytes(pixels)
        slice_.save_as(tmp_path / f"{k}.dcm")
    expected = {"promise": "no whole fragments", "zeros": "neither pydicom nor SimpleITK"}[damage]
    assert expected in refusal(tmp_path)


def test_a_scanners_series_is_read_as_simpleitk_reads_it() -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is what the voxels are compared with")
    file = pydicom.data.get_testdata_file("dicomdirtests/98892001/CT5N/2392", download=False)
    if file is None:
        pytest.skip("pydicom came without its test files")
    folder = Path(file).parent
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    header = series.read_header(folder)
    np.testing.assert_array_equal(stored(folder) + header.inter, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(header.source.affine[:3, 3], np.array(image.GetOrigin()) * [-1, -1, 1])
    assert header.spacing_mm == (2.5, 0.488281, 0.488281)


def test_other_files_are_ignored_and_names_need_no_ending(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", voxels(), name=lambda k: f"1.2.840.{k}")
    for name in ("DICOMDIR", "README", "notes.txt", ".DS_Store"):
        (folder / name).write_text("no image")
    write_object(folder / "structures.dcm", "RTSTRUCT")
    np.testing.assert_array_equal(stored(folder), voxels())


def test_a_file_stands_for_its_series(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(seed=1), name=lambda k: f"a{k}.dcm")
    write_series(tmp_path, voxels((4, 6, 7), seed=2), description="T2 ax", name=lambda k: f"b{k}.dcm")
    np.testing.assert_array_equal(stored(tmp_path / "b2.dcm"), voxels((4, 6, 7), seed=2))
    said = refusal(tmp_path)
    assert "2 series: 'T1 ax' (…" in said
    assert "5 slices), 'T2 ax' (…" in said
    assert "name one in data.dicom_series" in said
    chosen = series.choose_series(tmp_path, "t2*")
    assert chosen == tmp_path / "b0.dcm"
    uid = pydicom.dcmread(tmp_path / "a0.dcm").SeriesInstanceUID
    assert series.choose_series(tmp_path, uid[-9:]) == tmp_path / "a0.dcm"
    assert series.choose_series(tmp_path, "*") == tmp_path
    assert series.choose_series(tmp_path, "flair") is None


def test_series_lie_at_any_depth(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "ct" / "series1", voxels())
    np.testing.assert_array_equal(stored(tmp_path), voxels())


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels())
    assert series.read_header(folder).shape[0] == 5
    write_series(tmp_path, voxels((7, 6, 7)), uid=pydicom.dcmread(next(folder.iterdir())).SeriesInstanceUID)
    assert series.read_header(folder).shape[0] == 7


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels((9, 6, 7)), name=lambda k: f"{k}.dcm")
    (folder / "3.dcm").unlink()
    assert "1 missing slice: 5 mm instead of 2.5 between 2.dcm and 4.dcm; restore the missing files" in refusal(folder)
    (folder / "6.dcm").unlink()
    (folder / "7.dcm").unlink()
    assert "3 missing slices: 7.5 mm instead of 2.5 between 5.dcm and 8.dcm" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (moved(2, 0.9), "slices 1.6 to 3.4 mm apart, expected one distance; export the series again"),
        (moved(2, -2.5), "5 slices at 4 places (1.dcm and 2.dcm at one); remove the duplicates"),
        (moved(-1, 0.5, axis=1), "shift sideways by up to 2 mm (a gantry tilt of 11.3°?); convert it with dcm2niix"),
        (lambda k, s: s.update({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}) if k == 2 else None,
         "slices of different orientations (0.dcm and 2.dcm); split the series"),
        (lambda k, s: s.update({"PixelSpacing": [1, 1]}) if k == 2 else None,
         "slices of different pixel spacings (0.dcm and 2.dcm)"),
        (lambda k, s: s.update({"ImageOrientationPatient": [1, 0, 0, 1, 1, 0]}), "is no pair of axes"),
        (lambda k, s: s.__delattr__("ImagePositionPatient"), "no ImagePositionPatient, without which its place"),
        (lambda k, s: s.update({"Rows": 7, "PixelData": bytes(98)}) if k == 2 else None,
         "slices of different sizes: 6 × 7 (0.dcm) and 7 × 7 (2.dcm)"),
        (lambda k, s: s.update({"PhotometricInterpretation": "PALETTE COLOR"}), "a colour image (PALETTE COLOR)"),
        (lambda k, s: s.update({"Rows": 60000, "Columns": 60000}), "truncated: header promises 7200000000 bytes"),
        (lambda k, s: s.update({"BitsAllocated": 64}), "pixels of 64 bits"),
        (lambda k, s: s.update({"NumberOfFrames": 2, "PixelData": bytes(168)}), "several frames in a file"),
        (lambda k, s: s.update({"Modality": "SEG"}), "a DICOM SEG object, no image; convert it with segimage2"),
        (lambda k, s: s.update({"Modality": "RTSTRUCT"}), "RTSTRUCT object, no image; convert it with dcmrtstruct2nii"),
    ],
)  # fmt: skip
def test_what_is_no_volume_is_refused_in_a_line(
    tmp_path: Path, change: Callable[[int, Dataset], None], said: str
) -> None:
    folder = write_series(tmp_path, voxels(), change=change, name=lambda k: f"{k}.dcm")
    message = refusal(folder)
    assert said in message
    assert "\n" not in message


def test_copies_and_time_points_are_told_apart(tmp_path: Path) -> None:
    uid = str(pydicom.uid.generate_uid())
    write_series(tmp_path, voxels(), uid=uid, name=lambda k: f"a{k}.dcm")
    write_series(tmp_path, voxels(seed=1), uid=uid, name=lambda k: f"b{k}.dcm")
    assert "10 slices at 5 places (a0.dcm and b0.dcm at one); split it into one series" in refusal(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path, voxels(), name=lambda k: f"{k}.dcm")
    whole = (folder / "2.dcm").read_bytes()
    for content in (b"nothing of the kind", b"", whole[:-20], whole[:300]):
        (folder / "2.dcm").write_bytes(content)
        assert refusal(folder).startswith(f"{folder / '2.dcm'}: ")


def test_a_single_slice_is_no_volume(tmp_path: Path) -> None:
    assert "2-D data (shape 7×6×1), expected a volume" in refusal(write_series(tmp_path, voxels((1, 6, 7))))


def test_read_header_takes_folders(tmp_path: Path) -> None:
    assert read_header(write_series(tmp_path, voxels())).shape == (5, 6, 7)


def test_slices_are_measured_one_at_a_time_as_if_held_whole(tmp_path: Path) -> None:
    for folder in (write_series(tmp_path / "a", voxels(), turned(20)), write_enhanced(tmp_path / "b", voxels())):
        whole, volume = volumes._read_image(folder)
        found, plane = slabs.measure_image(read_header(folder))
        assert (found.box, found.channels[0].low, found.channels[0].high) == (
            whole.box,
            whole.channels[0].low,
            whole.channels[0].high,
        )
        np.testing.assert_array_equal(plane[0], volume[len(volume) // 2])


def test_a_deflated_file_is_inflated_no_further_than_its_header_promises(tmp_path: Path) -> None:
    def change(k: int, slice_: Dataset) -> None:
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        slice_.add_new(0xFFFCFFFC, "OB", bytes(50_000_000))  # what follows the pixels

    folder = write_series(tmp_path, voxels((2, 6, 7)), change=change)
    with open_plain(next(folder.iterdir()), 3000) as file:
        assert len(file.read()) < 3000 + 1000
    np.testing.assert_array_equal(stored(folder), voxels((2, 6, 7)))


def test_compressed_pixels_promise_no_more_than_they_can_hold(tmp_path: Path) -> None:
    def change(k: int, slice_: Dataset) -> None:
        slice_.compress(pydicom.uid.RLELossless)
        slice_.Rows = slice_.Columns = 60000

    assert "header promises 7.2 GB, more than" in refusal(write_series(tmp_path, voxels(), change=change))


def test_a_missing_pydicom_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path, voxels())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert refusal(folder).endswith('DICOM, for which pydicom is missing; pip install -e ".[formats]"')
