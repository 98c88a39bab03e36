"""NRRD and MetaImage against SimpleITK."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from data.files.errors import RESTORE
from data.files.formats import itk
from data.files.formats.registry import parts_of
from data.files.volumes import FileProblem, read_header, read_image, read_label, write_volume
from data.layouts.cases import Case
from data.prepare.case_checks import check_case
from machine.disk import CannotWrite

sitk = pytest.importorskip("SimpleITK", reason='needs pip install -e ".[formats]"')
RNG = np.random.default_rng(0)
NAMES = ("a.nrrd", "a.nhdr", "a.mha", "a.mhd")
SPACING, ORIGIN = (0.7, 1.1, 2.5), (12.5, -31.25, 7.0)
NRRD = "NRRD0004\ntype: int16\ndimension: {axes}\nsizes: {sizes}\nendian: little\nencoding: raw\n{more}\n\n"
DIRECTIONS = "space directions: {}\nspace origin: (10,-20,30)"
EDGES = "(1.5,0,0) (0,2,0) (0,0,-3)"
META = "ObjectType = Image\nNDims = {axes}\nBinaryData = True\nDimSize = {sizes}\nElementType = MET_SHORT\n{more}"


def turn(degrees: float) -> np.ndarray:
    """A rotation about an axis that is none of the three."""
    axis = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    radians = np.deg2rad(degrees)
    return np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * cross @ cross


DIRECTIONS_OF = [np.diag(signs).astype(float) for signs in itertools.product((1, -1), repeat=3)]
DIRECTIONS_OF += [np.eye(3)[:, [2, 0, 1]], turn(20), turn(-35) @ np.eye(3)[:, [1, 2, 0]]]


def saved(path: Path, direction: np.ndarray, packed: bool = False, dtype: type = np.int16) -> tuple[np.ndarray, object]:
    """Write an image as ITK does; its values (k, j, i)."""
    values = RNG.integers(0, 1000, (5, 6, 7)).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), packed)
    return values, image


def nrrd(path: Path, sizes: tuple[int, ...], more: str) -> np.ndarray:
    """Write a raw NRRD of the numbers from 0 on; they are returned in the file's order."""
    values = np.arange(int(np.prod(sizes)), dtype="<i2")
    head = NRRD.format(axes=len(sizes), sizes=" ".join(map(str, sizes)), more=more)
    path.write_bytes(head.encode() + values.tobytes())
    return values


def meta(path: Path, sizes: tuple[int, ...], more: str = "", local: str = "LOCAL", order: str = "<") -> np.ndarray:
    """Write a MetaImage of the numbers from 0 on."""
    values = np.arange(int(np.prod(sizes)), dtype=f"{order}i2")
    head = META.format(axes=len(sizes), sizes=" ".join(map(str, sizes)), more=more) + f"ElementDataFile = {local}\n"
    path.write_bytes(head.encode() + (values.tobytes() if local == "LOCAL" else b""))
    return values


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_voxel_lies_where_itk_has_it(tmp_path: Path, name: str, packed: bool) -> None:
    for direction in DIRECTIONS_OF:
        values, image = saved(tmp_path / name, direction, packed)
        volume, grid, source = read_image(tmp_path / name)
        assert volume.shape == (*grid.shape, 1)
        for index in [(0, 0, 0), (6, 5, 4), (3, 1, 2)]:  # i, j, k
            place = np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(index)
            assert np.allclose((source.affine @ [*index, 1])[:3], place, atol=1e-5)
            i, j, k = np.rint(np.linalg.solve(grid.affine, [*place, 1])[:3]).astype(int)
            assert volume[k, j, i, 0] == values[index[::-1]]


@pytest.mark.parametrize("name", ["A.NRRD", "A.MHA", "a.Mha"])
def test_names_in_capitals(tmp_path: Path, name: str) -> None:
    values, _ = saved(tmp_path / name.lower(), np.eye(3))
    if name != name.lower():
        (tmp_path / name.lower()).rename(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name)[0][..., 0], values[:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("space", "codes", "origin"),
    [
        ("space: left-posterior-superior", "LPI", (-10, 20, 30)),
        ("space: RAS", "RAI", (10, -20, 30)),
        ("space: left-anterior-superior", "LAI", (-10, -20, 30)),
        ("space dimension: 3", "LPI", (-10, 20, 30)),
    ],
)
def test_spaces_of_nrrd(tmp_path: Path, space: str, codes: str, origin: tuple[int, ...]) -> None:
    nrrd(tmp_path / "a.nrrd", (4, 5, 6), f"{space}\n{DIRECTIONS.format(EDGES)}")
    header = read_header(tmp_path / "a.nrrd")
    assert (header.orientation, header.spacing_mm) == (codes, (3, 2, 1.5))
    assert np.array_equal(header.source.affine[:3, 3], origin)


@pytest.mark.parametrize(
    ("sizes", "kinds", "directions"),
    [
        ((2, 4, 5, 6), "list domain domain domain", f"none {EDGES}"),
        ((4, 5, 6, 2), "domain domain domain list", f"{EDGES} none"),
        ((2, 4, 5, 6), "vector space space space", f"none {EDGES}"),
    ],
)
def test_lists_of_nrrd_are_channels(tmp_path: Path, sizes: tuple[int, ...], kinds: str, directions: str) -> None:
    more = f"space: LPS\nkinds: {kinds}\n{DIRECTIONS.format(directions)}"
    values = nrrd(tmp_path / "a.nrrd", sizes, more).reshape(sizes, order="F")
    expected = np.moveaxis(values, sizes.index(2), -1)  # (i, j, k, C)
    volume, grid, source = read_image(tmp_path / "a.nrrd")
    assert grid.spacing_mm == (3, 2, 1.5)
    assert np.array_equal(volume, source.orientation.to_dhw(expected))


def test_channels_of_metaimage(tmp_path: Path) -> None:
    values = meta(tmp_path / "a.mha", (4, 5, 6, 2), "ElementSpacing = 1.5 2 3 1\n").reshape(2, 6, 5, 4)
    volume, grid, _ = read_image(tmp_path / "a.mha")
    assert grid.spacing_mm == (3, 2, 1.5)
    assert np.array_equal(volume, np.moveaxis(values, 0, -1)[:, ::-1, ::-1])


@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order(tmp_path: Path, order: str) -> None:
    values = meta(tmp_path / "a.mha", (4, 5, 6), f"BinaryDataByteOrderMSB = {order == '>'}\n", order=order)
    assert np.array_equal(read_image(tmp_path / "a.mha")[0][..., 0], values.reshape(6, 5, 4)[:, ::-1, ::-1])
    head = NRRD.format(axes=3, sizes="4 5 6", more="spacings: 1 1 1").replace(
        "little", "big" if order == ">" else "little"
    )
    (tmp_path / "a.nrrd").write_bytes(head.encode() + values.tobytes())
    assert np.array_equal(read_image(tmp_path / "a.nrrd")[0][..., 0], values.reshape(6, 5, 4)[:, ::-1, ::-1])


def test_negative_spacing_and_units(tmp_path: Path) -> None:
    meta(tmp_path / "a.mha", (4, 5, 6), "ElementSpacing = 1.5 -2 3\nOffset = 1 2 3\nDistanceUnits = cm\n")
    assert np.array_equal(
        read_header(tmp_path / "a.mha").source.affine[:3, :4], [[-15, 0, 0, -10], [0, 20, 0, -20], [0, 0, 30, 30]]
    )
    nrrd(tmp_path / "a.nrrd", (4, 5, 6), f'space: LPS\nspace units: "um" "um" "um"\n{DIRECTIONS.format(EDGES)}')
    assert np.allclose(read_header(tmp_path / "a.nrrd").spacing_mm, (0.003, 0.002, 0.0015))


def test_a_label_stored_as_float(tmp_path: Path) -> None:
    for name in ("a.nrrd", "a.mha"):
        values, _ = saved(tmp_path / name, np.eye(3), packed=True, dtype=np.float32)
        label, _, _ = read_label(tmp_path / name)
        assert label.dtype == np.int32
        assert np.array_equal(label, values[:, ::-1, ::-1])


def test_voxels_in_a_file_of_their_own(tmp_path: Path) -> None:
    for name, packed, voxels in (("a.nhdr", True, "a.raw.gz"), ("b.mhd", True, "b.zraw"), ("c.mhd", False, "c.raw")):
        values, _ = saved(tmp_path / name, np.eye(3), packed)
        assert parts_of([tmp_path / name]) == [tmp_path / name, tmp_path / voxels]
        assert np.array_equal(read_image(tmp_path / name)[0][..., 0], values[:, ::-1, ::-1])
        (tmp_path / voxels).unlink()
        with pytest.raises(FileProblem, match=rf"{name}: header without voxels: {voxels} beside it is missing"):
            read_header(tmp_path / name)
        assert parts_of([tmp_path / name]) == [tmp_path / name]


@pytest.mark.parametrize("name", ["/etc/hostname", "../a.raw", "sub/a.raw", ".."])
def test_voxels_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    meta(tmp_path / "a.mhd", (4, 5, 6), local=name)
    nrrd(tmp_path / "a.nhdr", (4, 5, 6), f"data file: {name}")
    for header in ("a.mhd", "a.nhdr"):
        with pytest.raises(FileProblem, match=rf"{header}: voxels in '{name}', which is not beside it; move them"):
            read_header(tmp_path / header)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_cut_off_and_damaged_files(tmp_path: Path, name: str, packed: bool) -> None:
    saved(tmp_path / name, turn(20), packed)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-60])
    with pytest.raises(FileProblem, match=rf"{name}: truncated"):
        read_image(tmp_path / name)
    if packed:
        damaged = bytearray(content)
        damaged[-30] ^= 255
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(
            FileProblem, match=rf"{name}: (damaged gzip data|SimpleITK cannot read it \(data read error)"
        ):
            read_image(tmp_path / name)
    (tmp_path / name).write_bytes(content[:40])
    with pytest.raises(FileProblem, match=rf"{name}: (truncated: its header has no end|NRRD encoding|not a MetaImage)"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_nothing_is_inflated_past_the_promise(tmp_path: Path, name: str) -> None:
    saved(tmp_path / name, np.eye(3), packed=True)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content.replace(b"7 6 5\n", b"7 6 90000\n"))
    problems = [problem.reason for problem in check_case(Case("a", (tmp_path / name,)))]
    assert problems == [f"header promises 7.56 MB, more than {len(content) + 4} bytes of gzip can hold; {RESTORE}"]
    (tmp_path / name).write_bytes(content.replace(b"7 6 5\n", b"7 6 3\n"))
    with pytest.raises(FileProblem, match="holds more data than the 252 bytes that its header promises"):
        read_image(tmp_path / name)


REFUSED = {
    "kinds: RGB-color domain domain domain": "RGB data .*, expected scalars",
    "kinds: complex domain domain domain": "complex data .*, expected scalars",
    f"space: LPS\n{DIRECTIONS.format('none ' + EDGES)}": "an axis without direction .*; name each axis, as in",
    "line skip: 2": "NRRD with line skip 2; save it without",
    "byte skip: many": "byte skip 'many' in its header, expected a whole number",
    "data file: LIST": r"voxels in several files \(LIST\); save it as one file",
}


@pytest.mark.parametrize("more", REFUSED)
def test_what_is_refused_of_nrrd(tmp_path: Path, more: str) -> None:
    nrrd(tmp_path / "a.nrrd", (2, 4, 5, 6), more)
    with pytest.raises(FileProblem, match=rf"a\.nrrd: {REFUSED[more]}"):
        read_header(tmp_path / "a.nrrd")


def test_what_is_refused_of_both(tmp_path: Path) -> None:
    meta(tmp_path / "a.mha", (4, 5))
    nrrd(tmp_path / "a.nrrd", (4, 5, 1), "spacings: 1 1 1")
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(FileProblem, match=r"2-D data .*; stack the slices"):
            read_header(tmp_path / name)
    meta(tmp_path / "a.mha", (1,) * 12)
    with pytest.raises(FileProblem, match="12-D data, expected 3-D or 4-D"):
        read_header(tmp_path / "a.mha")
    (tmp_path / "a.mha").write_bytes(
        (tmp_path / "a.mha").read_bytes().replace(b"BinaryData = True", b"BinaryData = False")
    )
    nrrd(tmp_path / "a.nrrd", (4, 5, 6), "spacings: 1 1 1")
    (tmp_path / "a.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes().replace(b"encoding: raw", b"encoding: bzip2"))
    with pytest.raises(FileProblem, match="NRRD encoding 'bzip2'; save it with the encoding raw or gzip"):
        read_header(tmp_path / "a.nrrd")


@pytest.mark.parametrize(("name", "written"), [("a.nhdr", "p.nrrd"), ("a.mhd", "p.mha")])
@pytest.mark.parametrize("direction", [np.eye(3), turn(20), turn(-35) @ np.eye(3)[:, [1, 2, 0]]])
def test_a_prediction_lies_on_the_source_grid(tmp_path: Path, name: str, written: str, direction: np.ndarray) -> None:
    _, image = saved(tmp_path / name, direction)
    volume, grid, source = read_image(tmp_path / name)
    for values in (volume[..., 0].astype(np.uint16), np.concatenate([volume, volume + 0.5], axis=-1)):
        write_volume(tmp_path / written, values, source)
        again, again_grid, _ = read_image(tmp_path / written)
        by_itk = sitk.ReadImage(str(tmp_path / written))
        assert np.array_equal(again, values.reshape(again.shape))
        assert np.allclose(again_grid.affine, grid.affine, atol=1e-5)
        for of in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            assert np.allclose(getattr(by_itk, of)(), getattr(image, of)(), atol=1e-5)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "a.mha", np.eye(3))
    volume, _, source = read_image(tmp_path / "a.mha")
    with pytest.raises(CannotWrite, match=r"gone: a volume cannot be written \(.*\); free some space"):
        itk.write(tmp_path / "gone" / "p.mha", source, volume)


def test_without_simpleitk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.nrrd", np.eye(3))
    itk._library.cache_clear()
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(
        FileProblem, match=r"a\.nrrd: .* need SimpleITK, which is not installed; pip install -e \"\.\[formats\]\""
    ):
        read_header(tmp_path / "a.nrrd")
