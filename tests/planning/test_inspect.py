"""`python -m planning.inspect`: what it measures, what it finds, and what it exits with."""

import base64
import os
import re
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from imageio.v3 import imread

from data.synthetic.phantoms import CLASS_NAMES
from planning.inspect import main
from planning.report.text import facts_table
from planning.survey.survey import Survey
from planning.survey.thumbnails import colour_of, draw_thumbnail
from tests.data.write_layouts import write_folders, write_layout, write_volume
from tests.planning.take import findings, survey


def image(root: Path, case: int) -> Path:
    return root / "images" / f"case{case}.nii.gz"


def label(root: Path, case: int) -> Path:
    return root / "labels" / f"case{case}.nii.gz"


def replace(path: Path, array: np.ndarray) -> None:
    """Other voxels under the file's affine; array is in the file's own axes."""
    nibabel.save(nibabel.Nifti1Image(array, nibabel.load(path).affine), path)


def problems(found: Survey) -> list[str]:
    return [f"{problem.case_id}: {problem.path.name}: {problem.reason}" for problem in found.problems]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", spacing_mm=(3, 1, 0.5))


def test_a_sound_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(root), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for line in (
        r"cases +4, 4 labelled, 0 that cannot be used\n",
        r"shape +D 8 × H 8 × W 10 voxels\n",
        r"spacing +D 3 × H 1 × W 0\.5 mm\n",
        r"orientation +RAS\n",
        r"stored as +uint8\n",
        r"0 +background +96\.25 % +4\n +1 +class_1 +3\.75 % +4\n",  # 24 of 640 voxels
    ):
        assert re.search(line, out), line
    assert out.endswith("no problems found\n")


def test_what_is_measured(root: Path) -> None:
    voxels = np.arange(640, dtype=np.int16).reshape(10, 8, 8)  # (i, j, k)
    voxels[:2] = 0
    replace(image(root, 0), voxels)
    (facts, *_) = survey(root).cases
    assert facts.voxels is not None
    (channel,) = facts.voxels
    assert (channel.low, channel.high, channel.mean) == (0, 639, voxels.mean())
    assert (channel.percentile_low, channel.percentile_high) == pytest.approx(np.percentile(voxels, (0.5, 99.5)))
    assert facts.box == (8, 8, 8)
    assert facts.labels == {0: 616, 1: 24}
    assert (facts.dtype, facts.label_dtype, facts.orientation) == ("int16", "uint8", "RAS")


@pytest.mark.parametrize("kind", ["msd", "nnunet", "folders", "csv"])
def test_every_layout(tmp_path: Path, kind: str) -> None:
    found = survey(write_layout(kind, tmp_path / "data", cases=3))
    assert [facts.case.id for facts in found.usable] == ["phantom_000", "phantom_001", "phantom_002"]
    assert found.problems == []
    made_up = ("background", "class_1", "class_2", "class_3")
    assert found.class_names == (CLASS_NAMES if kind in ("msd", "nnunet") else made_up)
    numbers = [numbers for _, _, numbers in found.target.class_table(found.cases, str).rows]
    assert sum(float(share) for share, _ in numbers) == pytest.approx(1)
    assert {num_cases for _, num_cases in numbers} == {"3"}
    assert ("groups", "3") in facts_table(found) or kind != "csv"


def test_bad_files_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(root, 0).write_bytes(image(root, 0).read_bytes()[:-30])
    voxels = np.ones((10, 8, 8), np.float32)
    voxels[0, 0, 0] = np.nan
    replace(image(root, 1), voxels)
    replace(label(root, 2), np.full((10, 8, 8), 0.5, np.float32))
    replace(label(root, 3), np.ones((10, 8, 7), np.uint8))
    assert main([str(root)]) == 1
    out = capsys.readouterr().out
    assert "4, 4 labelled, 4 that cannot be used" in out
    for line in (
        "case0.nii.gz: truncated gzip data",
        "case1.nii.gz: 1 NaN and 0 infinite voxels of 640",
        "case2.nii.gz: label values that are not whole numbers: 0.5, 640 voxels",
        "case3.nii.gz: shape (7, 8, 10) differs from (8, 8, 10) of case3.nii.gz",
    ):
        assert line in out


def test_both_files_of_a_case_are_looked_at(root: Path) -> None:
    replace(image(root, 0), np.full((10, 8, 8), np.inf, np.float32))
    replace(label(root, 0), np.full((10, 8, 8), 0.5, np.float32))
    assert [line.split(",")[0] for line in problems(survey(root))] == [
        "case0: case0.nii.gz: label values that are not whole numbers: 0.5",
        "case0: case0.nii.gz: 0 NaN and 640 infinite voxels of 640; set them to a number",
    ]


def test_labels_outside_the_classes(root: Path) -> None:
    replace(label(root, 1), np.full((10, 8, 8), 3, np.uint8))
    names = "data.class_names=[background,organ]"
    (line,) = problems(survey(root, names))
    assert line.startswith("case1: case1.nii.gz: label values outside 0…1: 3, 640 voxels")
    assert survey(root, names, "loss.ignore_label=3").problems == []


def test_duplicates_are_found_in_any_orientation(root: Path) -> None:
    copy = nibabel.load(image(root, 0)).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(copy, image(root, 2))
    lines = findings(root)
    assert lines[0] == "case0, case2: the same voxels; keep one of them"
    assert lines[1].startswith("case2: mixed orientations (RAS 3, AIL 1): ")


def test_constant_volumes_and_labels_without_a_voxel(root: Path) -> None:
    replace(image(root, 1), np.full((10, 8, 8), 7, np.uint8))
    replace(label(root, 2), np.zeros((10, 8, 8), np.uint8))
    assert findings(root) == [
        "case1: channel 0 is constant (7); is it the right file?",
        "case2: the label is empty: all voxels are background",
    ]
    names = "data.class_names=[background,organ,lesion]"
    assert findings(root, names)[2:] == ["no label has a voxel of class 2 (lesion)"]


def test_another_spacing_another_number_of_channels_and_a_label_alone(root: Path) -> None:
    write_volume(image(root, 3), np.arange(640, dtype=np.uint16).reshape(8, 8, 10), (4, 1, 0.5))
    write_volume(label(root, 3), np.ones((8, 8, 10), np.uint8), (4, 1, 0.5))
    (line,) = findings(root)
    assert line.startswith("case3: mixed spacings (D 3–4 mm): set data.spacing_mm")
    replace(image(root, 3), np.ones((10, 8, 8, 2), np.uint8))
    (line,) = problems(survey(root))
    assert line.startswith("case3: case3.nii.gz: 2 channels, expected 1 as in the other cases")
    image(root, 3).unlink()
    assert findings(root) == [f"{root}: not read, as of no case: 1 volumes (labels/case3.nii.gz)"]


def test_label_values_with_gaps(root: Path) -> None:
    replace(label(root, 0), np.full((10, 8, 8), 255, np.uint8))
    found = survey(root)
    said = "label values 0, 1, 255: classes are numbered 1, 2, 3 … without gaps, and 0 is the background"
    assert str(found.findings[0]) == f"{said}; set 'data.label_map={{255: 2}}'"
    assert found.class_names == ()


def test_groups_and_copies_that_leak(root: Path) -> None:
    image(root, 3).write_bytes(image(root, 0).read_bytes())
    rows = zip((0, 1, 2, 3), ("train", "train", "val", "test"), ("a", "b", "b", "c"), strict=True)
    lines = [f"images/case{n}.nii.gz,labels/case{n}.nii.gz,{split},{group}" for n, split, group in rows]
    (root / "cases.csv").write_text("\n".join(["image,label,split,patient", *lines]))
    assert findings(root / "cases.csv") == [
        "case0, case3: the same voxels, in the splits test and train; keep one of them",
        "case1, case2: group b leaks: it is in the splits train and val; keep a group in one split",
    ]


def test_mistakes_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    (tmp_path / "cases.csv").write_text("file,label\na.mp4,\n")
    assert main([str(tmp_path / "cases.csv")]) == 2
    assert "holds no label; name it in data.columns.label" in capsys.readouterr().err
    (tmp_path / "dataset.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "dataset.json: not valid JSON" in capsys.readouterr().err
    assert main([str(tmp_path), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "page.html: there is no folder" in capsys.readouterr().err


def test_the_page_holds_a_slice_of_every_case(root: Path, tmp_path: Path) -> None:
    image(root, 1).write_bytes(b"no volume")
    replace(label(root, 2), np.zeros((10, 8, 8), np.uint8))
    image(root, 3).rename(image(root, 3).with_name("a&b.nii.gz"))
    label(root, 3).rename(label(root, 3).with_name("a&b.nii.gz"))
    assert main([str(root), "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 3
    assert len(re.findall(r"(?:src|href)=", page)) == 3  # nothing from elsewhere
    assert page.count("<figure") == 4
    assert page.count('<figure class="bad">') == 1
    assert "<b>a_b</b>" in page
    assert "the label is empty" in page
    shapes = [imread(BytesIO(base64.b64decode(picture))).shape for picture in pictures]
    assert shapes == [(180, 112, 3)] * 3  # 8 × 1 mm high, 10 × 0.5 mm wide


def test_a_thumbnail_shows_front_up_and_outlines_classes() -> None:
    volume = np.zeros((3, 10, 10), np.float32)
    volume[1, 8:] = 100  # anterior
    labels = np.zeros((3, 10, 10), np.uint8)
    labels[1, 2:6, 3:7] = 2
    picture = imread(BytesIO(draw_thumbnail(volume, labels, (1, 1, 1)))).astype(int)
    assert picture[:30].mean() > 240
    assert picture[150:].mean() < 15
    np.testing.assert_allclose(picture[126, 54 + 36], [0, 0, 0], atol=25)  # inside, at a distance from the rim
    rim = np.abs(picture - colour_of(2)).max(axis=2) < 40
    rows, columns = np.nonzero(rim)
    assert (rows.min(), rows.max()) == pytest.approx((72, 143), abs=2)  # H 2…6 of 10, upside down
    assert (columns.min(), columns.max()) == pytest.approx((54, 125), abs=2)


def test_some_of_the_hippocampus(datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = (datasets / "hippocampus").resolve()
    files = sorted(path.name for path in (folder / "imagesTr").iterdir())[:12]
    rows = [f"{folder / 'imagesTr' / name},{folder / 'labelsTr' / name}" for name in files]
    (tmp_path / "cases.csv").write_text("\n".join(["image,label", *rows]))
    assert main([str(tmp_path), "--threads", "1"]) == 0
    assert re.search(r"spacing +D 1 × H 1 × W 1 mm\n", capsys.readouterr().out)


def test_what_is_no_file_is_told_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(root / "images" / "pipe.nii.gz")
    (root / "images" / "folder.nii.gz").mkdir()
    (root / "images" / "link.nii").symlink_to("nowhere")
    assert main([str(root), "--threads", "1"]) == 1
    out = capsys.readouterr().out
    assert "cases        7, 4 labelled, 3 that cannot be used" in out
    assert "pipe.nii.gz: is a named pipe (FIFO), not a regular file" in out
    assert "folder.nii.gz: is a folder, not a file; name the file inside it" in out
    assert "link.nii: no such file; correct the path" in out


def test_names_are_not_obeyed_by_the_terminal(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "images" / "\x1b[31mred.nii.gz").write_bytes(b"no volume")
    assert main([str(root), "--threads", "1"]) == 1
    assert main([str(root / "\x1b]0;title\x07")]) == 2
    out, error = capsys.readouterr()
    assert r"/images/\x1b[31mred.nii.gz: neither a NIfTI nor an Analyze header" in out
    assert r"/\x1b]0;title\x07: no such file or folder" in error
    assert "\x1b" not in out + error


def test_a_page_on_a_full_disk(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert main([str(root), "--threads", "1", "--html", "/dev/full"]) == 2
    assert "/dev/full: cannot be written (No space left on device); free some space" in capsys.readouterr().err


def test_labels_to_train_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weak = np.full((8, 8, 10), 9, np.uint8)
    weak[:4, 0, 0] = 1
    for case in range(3):
        write_volume(root / "scribbles" / f"case{case}.nii.gz", weak, (3, 1, 0.5))
    assert main([str(root), "data.train_labels=scribbles"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"to train on +labels of 3 cases, 1 \(0\.62 %\), 9 \(99 %\)\n", out)
    assert "no label to train on for 1 cases: case3; they can validate and test" in out
    assert (
        "labels to train on hold 9, which is no class: if it marks voxels without a label, set loss.ignore_label=9"
        in out
    )
    assert main([str(root), "data.train_labels=scribbles", "loss.ignore_label=9"]) == 1
    assert "no class" not in capsys.readouterr().out
