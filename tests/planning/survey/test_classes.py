"""Cases with classes: what is measured of volumes, archives and clips, and what is worth checking among them."""

import base64
import re
from pathlib import Path

import av
import numpy as np
import pytest

from planning.inspect import main
from planning.report.text import facts_table
from tests.data.clip_files import numbered, write_clip, write_frames
from tests.data.write_layouts import write_volume
from tests.planning.take import findings, survey


def write_volumes(root: Path, cases: int = 10) -> Path:
    """Class folders of noise (8, 8, 10), as many cases of either class."""
    for number in range(2 * cases):
        name = ("healthy", "ill")[number % 2]
        noise = np.random.default_rng(number).integers(0, 99, (8, 8, 10)).astype(np.uint8)
        write_volume(root / name / f"case{number:02d}.nii.gz", noise, (3, 1, 0.5))
    return root


def write_clips(root: Path, clips: int = 10, frames: int = 12) -> Path:
    """Class folders of small clips, 10 frames a second."""
    for number in range(2 * clips):
        name = ("run", "walk")[number % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        pictures = np.roll(numbered(frames, (16, 16)), number, axis=0).copy()
        pictures[:, :8] += rng.integers(0, 60, (8, 16, 1)).astype(np.uint8)
        write_clip(root / name / f"clip{number:02d}.mp4", pictures)
    return root


def write_archive(root: Path, **arrays: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 99, (30, 8, 8, 8)).astype(np.uint8)
    labels = np.arange(30)[:, None] % 2
    found = {"train_images": images[:20], "train_labels": labels[:20], "val_images": images[20:]}
    root.mkdir(exist_ok=True)
    np.savez(root / "organ.npz", **{**found, "val_labels": labels[20:], **arrays})
    return root / "organ.npz"


def test_volumes_in_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_volumes(tmp_path / "data")), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    for line in (
        r"layout +classes, volumes\n",
        r"cases +20, 20 labelled, 0 that cannot be used\n",
        r"shape +D 8 × H 8 × W 10 voxels\n",
        r"spacing +D 3 × H 1 × W 0\.5 mm\n",
        r"orientation +RAS\n",
        r"stored as +uint8\n",
        r"intensity +0 … 98; in the median case mean 4\d",
        r"class +cases\n +healthy +10 \(50 %\)\n +ill +10 \(50 %\)\n",
    ):
        assert re.search(line, out), line
    assert out.endswith("no problems found\n")


def test_an_archive(tmp_path: Path) -> None:
    found = survey(write_archive(tmp_path))
    assert found.target.counts(found.cases) == [15, 15]
    table = found.target.class_table(found.cases, str)
    assert [heading.strip() for heading in table.headings] == ["cases", "train", "val"]
    assert table.rows[0] == (None, "0", ("15 (50 %)", "10", "5"))
    rows = dict(facts_table(found))
    assert rows["splits"] == "train (20), val (10)"
    assert rows["stored as"] == "uint8"
    assert "spacing" not in rows
    first = found.cases[0]
    assert (first.case.id, first.shape, first.num_channels) == ("train_00", (8, 8, 8), 1)
    expected = np.random.default_rng(0).integers(1, 99, (30, 8, 8, 8))[0]
    assert (first.voxels[0].low, first.voxels[0].mean) == (expected.min(), expected.mean())
    assert found.findings == ()


def test_an_archive_that_leaks_and_lacks(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    val = rng.integers(1, 99, (4, 8, 8, 8)).astype(np.uint8)
    val[0] = np.random.default_rng(0).integers(1, 99, (30, 8, 8, 8))[0]
    val[1] = 7
    path = write_archive(tmp_path, val_images=val, val_labels=np.array([[1], [1], [1], [1]]))
    assert findings(path) == [
        "train_00, val_0: the same voxels labelled 0 and 1, in the splits train and val: a label is wrong; correct "
        "it, and keep one of them",
        "val_1: channel 0 is constant (7); is it the right file?",
        "split val has no case of 0",
    ]


def test_classes_that_may_coincide(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0]] * 10)
    images = np.random.default_rng(0).integers(1, 99, (20, 8, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "organ.npz", train_images=images, train_labels=labels)
    found = survey(tmp_path)
    assert (found.target.multi_label, found.target.counts(found.cases)) == (True, [10, 20, 0])
    assert findings(tmp_path) == ["no case of 2"]


def test_rare_classes(tmp_path: Path) -> None:
    root = write_volumes(tmp_path)
    for number in (1, 3, 5, 7, 9, 11, 13):
        (root / "ill" / f"case{number:02d}.nii.gz").unlink()
    assert findings(root) == [
        "classes of fewer than 10 cases: ill (3); folds and scores will not be reliable",
        "imbalanced classes: 10 cases of 'healthy', 3 of 'ill'; set data.balance=classes or "
        "loss.class_weights=balanced, and judge by AUC",
    ]


def test_what_is_measured_of_a_clip(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "data")
    write_clip(root / "run" / "clip00.mp4", numbered(12, (16, 24)), degrees=90)
    found = survey(root)
    facts = found.cases[0]
    assert (facts.container, facts.codec, facts.pixels) == ("mov/mp4", "h264", "yuv420p")
    assert (facts.width, facts.height, facts.turned) == (16, 24, True)
    assert (facts.num_frames, facts.duration_s, facts.frame_rate) == (12, pytest.approx(1.2), pytest.approx(10))
    assert (facts.low, facts.high) == (pytest.approx(20, abs=3), pytest.approx(20 + 8 * 11, abs=3))
    assert not facts.variable
    rows = dict(facts_table(found))
    assert rows["layout"] == "classes, clips"
    assert rows["frame size"] == "16×16 (19), 16×24 (1) (width×height, upright)"
    assert rows["frame rate"] == "10 a second, 0 variable"
    assert rows["length"] == "1.2 s, 12 frames"
    assert rows["rotation"] == "1 turned upright by their tag"


def test_odd_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_clips(tmp_path / "data", clips=11)
    run = root / "run"
    write_clip(run / "clip00.mp4", np.full((12, 16, 16, 3), 90, np.uint8))
    write_clip(run / "clip02.mp4", numbered(5, (16, 16)))
    write_clip(run / "clip04.mp4", numbered(12, (16, 16)), [*range(0, 500, 100), *range(900, 1600, 100)])
    (run / "clip06.mp4").write_bytes(b"no video")
    (root / "walk" / "clip01.mp4").write_bytes((run / "clip08.mp4").read_bytes())
    still = np.random.default_rng(0).integers(0, 200, (1, 16, 16, 1)).astype(np.uint8)
    write_clip(run / "clip10.mp4", np.broadcast_to(still, (12, 16, 16, 3)), options={"qp": "0"})
    assert main([str(root), "--threads", "1"]) == 1
    out = capsys.readouterr().out
    for line in (
        "clip06: .*clip06.mp4: no video that ffmpeg can open",
        "clip01, clip08: the same frames labelled walk and run: a label is wrong; correct it, and keep one of them",
        "clip00: every frame is of one colour",
        "clip10: nothing moves: frames differ by no more than noise",
        r"clip02: lasts 0\.5 s, less than half of the usual 1\.2 s",
        r"mixed frame rates \(7\.5–10 a second, median 10\): set data\.clip\.frame_rate",
        "clip04: variable frame rate",
        "22, 22 labelled, 1 that cannot be used",
    ):
        assert re.search(line, out), line


def write_table(root: Path, groups: int, splits: bool = False) -> Path:
    rows = []
    for number, path in enumerate(sorted(root.glob("*/*"))):
        split = ("train", "val")[number % 2] if splits else ""
        rows.append(f"{path.relative_to(root)},{path.parent.name},{number % groups},{split}")
    table = root / "groups.csv"
    table.write_text("\n".join(["file,label,group,split", *rows]))
    return table


def test_a_table_beside_class_folders(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "data")
    write_table(root, groups=5)
    rows = dict(facts_table(survey(root)))
    assert rows["layout"] == "csv, volumes: the table groups.csv, preferred to the folders beside it (healthy, ill)"
    assert rows["groups"] == "5, of 4 to 4 cases"
    write_volume(root / "ill" / "new.nii.gz", np.arange(640, dtype=np.uint16).reshape(8, 8, 10), (3, 1, 0.5))
    assert findings(root) == ["1 files that the table does not list: ill/new.nii.gz"]
    (line,) = findings(root, "data.source=classes")
    assert line.startswith(f"{root / 'groups.csv'} has a column of groups, which data.source=classes ignores")


def test_groups_that_leak_and_copies_in_two_groups(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "data")
    write_table(root, groups=5, splits=True)
    lines = findings(root)
    assert len(lines) == 5
    leaks = "group 0 leaks: it is in the splits train and val; keep a group in one split"
    assert lines[0] == f"case00, case01, case10, case11: {leaks}"
    (root / "healthy" / "case02.nii.gz").write_bytes((root / "healthy" / "case00.nii.gz").read_bytes())
    write_table(root, groups=5)
    (line,) = findings(root)
    copies = "the same voxels, in the groups 0, 1: one may train and the other validate; keep one of them"
    assert line == f"case00, case02: {copies}"


def test_the_page_shows_a_sample_of_each_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planning.report.page.MAX_TILES", 8)
    root = write_volumes(tmp_path / "data")
    write_volume(root / "ill" / "case07.nii.gz", np.full((8, 8, 10), 5, np.uint8), (3, 1, 0.5))
    assert main([str(root), "--threads", "1", "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure") == 8
    assert "8 of 20 cases: evenly spaced ones of each class, those named above first." in page
    assert re.findall("<h3>(.*)</h3>", page) == ["healthy", "ill"]
    assert "<b>case07</b>" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert all(base64.b64decode(picture)[:2] == b"\xff\xd8" for picture in pictures)
    assert len(re.findall(r"(?:src|href)=", page)) == len(pictures) == 8


def test_the_page_shows_frames(tmp_path: Path) -> None:
    root = write_clips(tmp_path / "data", clips=2)
    (root / "run" / "clip00.mp4").write_bytes(b"no video")
    assert main([str(root), "--threads", "1", "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text()
    assert "The middle frame, upright." in page
    assert page.count('alt="frame of ') == 3
    assert page.count('<figure class="bad">') == 1
    assert "16×16, 12 frames, 1.2 s, 10 fps, h264" in page


def test_the_page_shows_a_raw_stream(tmp_path: Path) -> None:
    """H.264 without a container, which cannot seek."""
    root = write_clips(tmp_path / "data", clips=1)
    clip, raw_clip = root / "run" / "clip00.mp4", root / "run" / "raw.avi"
    with av.open(str(clip)) as source, av.open(str(raw_clip), "w", "h264") as raw:
        stream = raw.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                raw.mux(packet)
    clip.unlink()
    assert main([str(root), "--threads", "1", "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text()
    assert page.count('alt="frame of ') == 2


def test_clips_stored_as_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        name = ("run", "walk")[number % 2]
        write_frames(tmp_path / name / f"clip{number}", np.roll(numbered(6, (16, 16)), number, axis=0))
    (tmp_path / "run" / "clip0" / "frame_3.png").unlink()
    assert main([str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "container    images\n" in text
    assert "clip0: frames are missing: 3; those after them come too early" in text
    assert "clip0, clip1, clip2, clip3: images, which have no times: 25 frames a second are assumed" in text
    main([str(tmp_path), "data.clip.image_frame_rate=10"])
    text = capsys.readouterr().out
    assert "frame rate   10 a second, 0 variable" in text
    assert "no times" not in text
    (tmp_path / "walk" / "clip1" / "frame_2.png").write_bytes(b"no image")
    main([str(tmp_path)])
    assert "frame_2.png: no image that can be read" in capsys.readouterr().out
