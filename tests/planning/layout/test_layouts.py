"""Layouts that people have, made of phantoms: each is read as it is, or answered in one sentence."""

from pathlib import Path

import pytest

from data.synthetic.phantoms import write_phantoms
from planning.survey.label_volumes import count_voxels
from planning.survey.survey import Survey
from tests.make_layouts import make_layout
from tests.planning.take import survey


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", cases=6, seed=0, shape=(12, 14, 13)).parent


def facts(found: Survey) -> tuple[int, int, int, str]:
    """Cases, those with a label, channels, and what the labels' values are named."""
    labelled = sum(facts.case.label is not None for facts in found.usable)
    return len(found.usable), labelled, found.usable[0].num_channels, found.files


@pytest.mark.parametrize(
    ("layout", "cases", "labels", "channels", "groups"),
    [
        ("patients", 6, 6, 2, 0),
        ("patients_by_name", 6, 6, 1, 0),
        ("visits", 6, 6, 1, 3),
        ("bids", 6, 6, 1, 0),
        ("bids_sessions", 6, 6, 1, 3),
        ("flat", 6, 6, 1, 0),
        ("flat_bare", 6, 6, 1, 0),
        ("flat_channels", 6, 6, 2, 0),
        ("no_json", 6, 6, 1, 0),
        ("no_json_tests", 6, 5, 1, 0),
        ("msd_tests", 6, 5, 1, 0),
        ("few_slices", 6, 6, 1, 0),
    ],
)
def test_layouts_are_read(
    phantoms: Path, tmp_path: Path, layout: str, cases: int, labels: int, channels: int, groups: int
) -> None:
    found = survey(make_layout(layout, phantoms, tmp_path))
    images = cases * channels
    assert facts(found) == (cases, labels, channels, f"{images + labels} files: {images} images, {labels} labels")
    assert len({facts.case.group for facts in found.cases if facts.case.group}) == groups
    assert sum(facts.case.split == "test" for facts in found.cases) == cases - labels
    assert not [finding for finding in found.findings if "not read" in finding.text]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("archive", r"Task04\.tar: a packed archive; unpack it \(tar xf Task04\.tar\), and give the folder it makes"),
        ("zip", r"scans\.zip: a packed archive; unpack it \(unzip scans\.zip\)"),
    ],
)
def test_layouts_are_answered(phantoms: Path, tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        survey(make_layout(layout, phantoms, tmp_path))


@pytest.mark.parametrize(
    ("layout", "override", "voxels_of"),
    [("values_255", "data.label_map={255: 1}", {0, 1}), ("values_4_7", "data.label_map={4: 1, 7: 2}", {0, 1, 2})],
)
def test_label_values_are_settled_by_the_override_that_is_printed(
    phantoms: Path, tmp_path: Path, layout: str, override: str, voxels_of: set[int]
) -> None:
    root = make_layout(layout, phantoms, tmp_path)
    assert any(finding.text.endswith(f"; set '{override}'") for finding in survey(root).findings)
    found = survey(root, override)
    assert set(count_voxels(found.cases)) == voxels_of
    assert found.class_names == ("background", "class_1", "class_2")[: len(voxels_of)]
    assert not [finding for finding in found.findings if "label values" in finding.text]


def test_a_single_slice_is_no_volume(phantoms: Path, tmp_path: Path) -> None:
    reasons = {problem.reason for problem in survey(make_layout("one_slice", phantoms, tmp_path)).problems}
    assert all("-D data (shape " in reason for reason in reasons)
    assert any(
        reason.endswith("of one patient into a volume; single 2-D images are not for this template")
        for reason in reasons
    )
