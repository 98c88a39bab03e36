"""Large volumes, a few slices at a time: the same as held whole."""

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data.files.errors import FileProblem
from data.files.volumes import read_header
from planning.survey import slabs, volumes
from planning.survey.slabs import count_label, measure_image
from tests.data.write_layouts import write_folders
from tests.planning.take import survey

AXES = ["RAS", "LPS", "PSR", "ILP", "AIR"]


def write(path: Path, codes: str, values: np.ndarray, slope: float = 1) -> Path:
    """Values (i, j, k, ...) with axes that point as `codes` say, stored with scale factors."""
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), values.shape[:3])
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("slab_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("codes", AXES)
def test_an_image_is_measured_as_if_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str, slab_bytes: int
) -> None:
    values = np.random.default_rng(0).integers(1, 900, (7, 6, 5, 2)).astype(np.int16)
    values[:2], values[:, 5:], values[..., :1, :] = 0, 0, 0
    path = write(tmp_path / "a.nii.gz", codes, values, slope=0.5)
    whole, volume = volumes._read_image(path)
    monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
    found, plane = measure_image(read_header(path))
    assert found.box == whole.box
    for channel, expected in zip(found.channels, whole.channels, strict=True):
        np.testing.assert_allclose(
            [channel.low, channel.mean, channel.high, channel.percentile_low, channel.percentile_high],
            [expected.low, expected.mean, expected.high, expected.percentile_low, expected.percentile_high],
            rtol=1e-6,
        )
    assert np.array_equal(plane[0], volume[len(volume) // 2])


def test_samples_and_digests_do_not_depend_on_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii", "RAS", np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32))
    monkeypatch.setattr(slabs, "SAMPLE", 100)
    found = []
    for size in (1, 700, 1 << 20):
        monkeypatch.setattr(slabs, "SLAB_BYTES", size)
        found.append(measure_image(read_header(path))[0])
    assert {(one.digest, one.channels[0].percentile_low, one.channels[0].percentile_high) for one in found} == {
        (found[0].digest, found[0].channels[0].percentile_low, found[0].channels[0].percentile_high)
    }
    flat = np.asarray(nibabel.load(path).dataobj).reshape(-1, order="F")[::5]  # 504 voxels, a hundred of them
    assert found[0].channels[0].percentile_low == pytest.approx(np.percentile(flat, 0.5))


@pytest.mark.parametrize("codes", AXES)
def test_labels_are_counted_as_if_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", 50)
    values = np.random.default_rng(0).integers(0, 4, (7, 6, 5)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", codes, values, slope=2)
    counts, label = volumes._read_label(path)
    found, plane = count_label(read_header(path))
    assert found == counts
    assert set(found) == {0, 2, 4, 6}
    assert np.array_equal(plane[0], label[len(label) // 2])


def test_what_is_wrong_with_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", 1)
    values = np.zeros((4, 5, 6), np.float32)
    values[0, 0, 0], values[1, 1, 5], values[2, 2, 5] = np.nan, np.inf, np.nan
    path = write(tmp_path / "a.nii", "RAS", values)
    with pytest.raises(FileProblem, match=r"a\.nii: 2 NaN and 1 infinite voxels of 120; set them"):
        measure_image(read_header(path))
    with pytest.raises(FileProblem, match=r"a\.nii: label values that are not whole numbers: inf, nan, 3 voxels"):
        count_label(read_header(path))
    cut = tmp_path / "b.nii.gz"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(FileProblem, match=r"b\.nii\.gz: truncated"):
        measure_image(read_header(cut))


def test_a_survey_of_large_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folders(tmp_path / "data")
    small = survey(root)
    monkeypatch.setattr(volumes, "_WHOLE_BYTES", 100)
    large = survey(root)
    assert [facts.labels for facts in large.cases] == [facts.labels for facts in small.cases]
    assert [facts.voxels for facts in large.cases] == [facts.voxels for facts in small.cases]
    assert (large.problems, large.findings) == (small.problems, small.findings)


@pytest.mark.slow
def test_a_megabyte_of_gzip_takes_less_than_a_gigabyte_of_memory(tmp_path: Path) -> None:
    """1024 × 1024 × 1000 zeros."""
    (tmp_path / "images").mkdir()
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((1024, 1024, 1000))
    with gzip.open(tmp_path / "images" / "a.nii.gz", "wb", compresslevel=9) as file:
        file.write(image.header.binaryblock + bytes(4))
        for _ in range(1000):
            file.write(bytes(1 << 20))
    assert (tmp_path / "images" / "a.nii.gz").stat().st_size < 1.1e6
    script = """
import re, resource, sys
from pathlib import Path
from planning.inspect import main
code, status = main(sys.argv[1:]), Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss counts the process that started this one, too
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) >> 10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20)
sys.exit(code)
"""
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "channel 0 is constant (0)" in run.stdout
    assert int(run.stdout.splitlines()[-1]) < 1024  # MiB
