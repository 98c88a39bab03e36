"""MGH and MGZ against nibabel."""

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.files.volumes import FileProblem, read_header, read_image, read_label, write_volume
from planning.survey.slabs import measure_image

RNG = np.random.default_rng(0)
OBLIQUE = np.array([[1.5, -0.3, 0.2, 10], [0.4, 1.9, -0.3, -20], [-0.2, 0.5, 2.8, 30], [0, 0, 0, 1]])
AFFINES = [np.diag([*signs, 1.0]) * [1, 2, 3, 1] for signs in itertools.product((1, -1), repeat=3)] + [OBLIQUE]


def saved(path: Path, dtype: type = np.int16, affine: np.ndarray = OBLIQUE, channels: int = 1) -> Path:
    values = RNG.integers(0, 200, (4, 5, 6, channels)[: 3 + (channels > 1)]).astype(dtype)
    nibabel.save(nibabel.MGHImage(values, affine), path)
    return path


def load(path: Path) -> nibabel.MGHImage:
    content = path.read_bytes()
    return nibabel.MGHImage.from_bytes(gzip.decompress(content) if path.suffix == ".mgz" else content)


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_it_is_read_as_nibabel_reads_it(tmp_path: Path, name: str, dtype: type) -> None:
    for affine, channels in itertools.product(AFFINES, (1, 2)):
        peer = load(saved(tmp_path / name, dtype, affine, channels))
        values = np.asarray(peer.dataobj).reshape(4, 5, 6, channels)
        volume, grid, source = read_image(tmp_path / name)
        assert np.allclose(source.affine, peer.affine, atol=1e-5)
        assert np.array_equal(volume, source.orientation.to_dhw(values))
        assert np.allclose(sorted(grid.spacing_mm), sorted(peer.header.get_zooms()[:3]))
    assert read_header(tmp_path / name).dtype == np.dtype(dtype).newbyteorder(">")


def test_a_label_stored_as_float(tmp_path: Path) -> None:
    label, _, source = read_label(saved(tmp_path / "a.mgz", np.float32))
    assert label.dtype == np.uint8
    assert np.array_equal(source.orientation.from_dhw(label), np.asarray(load(tmp_path / "a.mgz").dataobj))


def test_what_freesurfer_writes_behind_the_voxels_is_passed_over(tmp_path: Path) -> None:
    content = gzip.decompress(saved(tmp_path / "a.mgz").read_bytes())
    (tmp_path / "a.mgz").write_bytes(gzip.compress(content + RNG.bytes(100_000)))
    (tmp_path / "a.mgh").write_bytes(content + RNG.bytes(100_000))
    assert np.array_equal(read_image(tmp_path / "a.mgz")[0], read_image(tmp_path / "a.mgh")[0])
    assert read_header(tmp_path / "a.mgz").problems == ()
    read = read_image(tmp_path / "a.mgz")[0]
    measured, _ = measure_image(read_header(tmp_path / "a.mgz"))
    assert (measured.channels[0].low, measured.channels[0].high) == (read.min(), read.max())


@pytest.mark.parametrize("name", ["p.mgh", "p.mgz"])
@pytest.mark.parametrize("affine", AFFINES[::3])
def test_a_prediction_lies_on_the_source_grid(tmp_path: Path, name: str, affine: np.ndarray) -> None:
    volume, _, source = read_image(saved(tmp_path / "a.mgz", affine=affine))
    labels, several = volume[..., 0].astype(np.uint16) + 200, np.concatenate([volume, volume + 0.5], axis=-1)
    for values in (labels, several):
        peer = load(write_volume(tmp_path / name, values, source))
        assert np.array_equal(np.asarray(peer.dataobj), source.orientation.from_dhw(values))
        assert np.allclose(peer.affine, source.affine, atol=1e-5)


def test_mistakes_are_named(tmp_path: Path) -> None:
    content = gzip.decompress(saved(tmp_path / "a.mgz").read_bytes())
    damage = {
        b"": "not an MGH file",
        b"\0\0\0\2" + content[4:]: "not an MGH file",
        content[:400]: "truncated: header promises 524 bytes",
        content[:20] + b"\0\0\0\x63" + content[24:]: "voxels of MGH's type 99, which nibabel does not know",
        content[:4] + b"\0\0\xff\xff" + content[8:]: "header promises",
        content[:8] + b"\0\0\0\1" + content[12:]: "2-D data",
    }
    for damaged, expected in damage.items():
        (tmp_path / "a.mgz").write_bytes(gzip.compress(damaged))
        with pytest.raises(FileProblem, match=rf"a\.mgz: {expected}"):
            read_image(tmp_path / "a.mgz")
    (tmp_path / "a.mgz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(FileProblem, match=r"a\.mgz: truncated gzip data"):
        read_image(tmp_path / "a.mgz")
