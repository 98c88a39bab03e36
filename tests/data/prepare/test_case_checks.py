import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from configs.schema.data import DataConfig
from data.layouts.cases import Case
from data.layouts.registry import find_cases
from data.prepare.case_checks import Problem, check_case

AFFINE = np.diag([1.0, 2, 3, 1])


def saved(path: Path, shape: tuple[int, ...] = (4, 5, 6), affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8), affine), path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case("a", (saved(tmp_path / "image.nii.gz"),), saved(tmp_path / "label.nii.gz"))


def reason(problems: list[Problem]) -> str:
    (problem,) = problems
    assert problem.case_id == "a"
    assert "\n" not in problem.reason
    return f"{problem.path.name}: {problem.reason}"


def test_a_sound_case_in_any_orientation(case: Case, tmp_path: Path) -> None:
    assert check_case(case) == []
    assert check_case(case, num_channels=1) == []
    assert check_case(replace(case, label=None)) == []
    turned = np.array([[-1.0, 0, 0, 3], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    flipped = saved(tmp_path / "flipped.nii", affine=turned)
    assert check_case(replace(case, label=flipped)) == []


def test_a_label_of_another_shape_or_in_another_place(tmp_path: Path, case: Case) -> None:
    problems = check_case(replace(case, label=saved(tmp_path / "b.nii", (4, 5, 7))))
    assert reason(problems).startswith("b.nii: shape (7, 5, 4) differs from (6, 5, 4) of image.nii.gz; resample")
    near, far = AFFINE.copy(), AFFINE.copy()
    near[2, 3], far[2, 3] = 0.09, 0.5
    assert check_case(replace(case, label=saved(tmp_path / "near.nii", affine=near))) == []
    problems = check_case(replace(case, label=saved(tmp_path / "far.nii", affine=far)))
    assert reason(problems).startswith("far.nii: affine differs from that of image.nii.gz: voxels lie up to 0.5 mm")


def test_channels(tmp_path: Path, case: Case) -> None:
    four = saved(tmp_path / "four.nii.gz", (4, 5, 6, 4))
    assert "image.nii.gz: 1 channels, expected 2" in reason(check_case(case, num_channels=2))
    assert check_case(replace(case, images=(four, case.images[0])), num_channels=5) == []
    assert "four.nii.gz: label with 4 channels" in reason(check_case(replace(case, label=four)))
    images = (case.images[0], saved(tmp_path / "t2.nii", affine=np.eye(4)))
    assert reason(check_case(replace(case, images=images))).startswith("t2.nii: affine differs")


def test_each_bad_file_is_named(tmp_path: Path, case: Case) -> None:
    problems = check_case(replace(case, images=(tmp_path / "none.nii",), label=tmp_path))
    found = [(problem.path.name, problem.reason.split(";")[0]) for problem in problems]
    assert found == [("none.nii", "no such file"), (tmp_path.name, "is a folder, not a file")]


def test_truncated_files_and_a_header_that_promises_terabytes(case: Case) -> None:
    data = bytearray(gzip.decompress(case.images[0].read_bytes()))
    header = nibabel.Nifti1Header(bytes(data[:348]))
    header.set_data_shape((32000, 32000, 32000))
    case.images[0].write_bytes(gzip.compress(header.binaryblock + bytes(data[348:])))
    assert any("header promises 32.77 TB" in problem.reason for problem in check_case(case))
    data = case.images[0].read_bytes()
    case.images[0].write_bytes(data[:-30])
    assert "image.nii.gz: truncated gzip data" in reason(check_case(case))


def test_the_hippocampus_headers_are_sound(datasets: Path) -> None:
    cases = find_cases(DataConfig(source="msd", root=datasets / "hippocampus")).cases
    assert [problem for case in cases[::8] for problem in check_case(case, num_channels=1)] == []
