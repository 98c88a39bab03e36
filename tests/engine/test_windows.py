"""Long videos in windows: each is predicted as a clip of its own would be."""

from pathlib import Path

import numpy as np
import pytest

import evaluate
from configs.schema.data import Clip
from data.synthetic.moving_shapes import write_moving_shapes
from engine.predict import load
from engine.runs.run_folder import RunFolder
from engine.windows import Windows, choose_windows
from tests.data.clip_files import numbered, write_clip, write_frames
from tests.runs import Capture, evaluated, read_metrics, read_rows, refused, untrained


def test_which_windows() -> None:
    assert choose_windows(None, None, Clip()) is None
    assert choose_windows(2.0, None, Clip()) == Windows(2.0, 2.0)
    assert choose_windows(2.0, 0.5, Clip(frame_rate=10)) == Windows(2.0, 0.5)
    for length, hop, clip, message in (
        (None, 1.0, Clip(), "--hop-seconds goes only with --window-seconds"),
        (2.0, 1.0, None, "--window-seconds goes with --images and one run that classifies clips"),
        (0.0, 1.0, Clip(), r"--window-seconds 0 must be above 0, --hop-seconds 1 at least 0\.01"),
        (2.0, 0.0, Clip(), r"--window-seconds 2 must be above 0, --hop-seconds 0 at least 0\.01"),
        (
            1.0,
            1.0,
            Clip(frame_rate=10),
            r"the network sees 1\.5 seconds \(data\.clip\.frames=16 at .*; take at least",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            choose_windows(length, hop, clip)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("windows")
    clips = write_moving_shapes(folder / "clips", clips=2, frames=4)
    clip = {"frames": 3, "short_side_pixels": 16, "crop_pixels": [16, 16], "image_frame_rate": 10}
    return untrained(
        {
            "name": "small",
            "task": "classification",
            "ops": "mlx",
            "run": {"dir": str(folder / "runs")},
            "data": {"source": "classes", "root": str(clips), "clip": clip, "split": {"folds": 2}},
            "model": {"name": "cnn3d", "args": {"widths": [4]}},
            "train": {"steps": 1, "batch_size": 3},
        },
        seed=0,
    )


@pytest.mark.slow
def test_a_window_is_predicted_as_a_clip(run: RunFolder, tmp_path: Path, capsys: Capture) -> None:
    frames = numbered(10).copy()
    frames[:, :16] = np.random.default_rng(0).integers(0, 255, (10, 16, 48, 3))
    long = write_frames(tmp_path / "match", frames)
    evaluated(run.path, "--images", long, "--window-seconds", 0.4, "--hop-seconds", 0.2)
    output = run.evaluation("images_match_windows")
    rows = read_rows(output, "windows.csv")
    assert [(row["case"], row["start_s"], row["end_s"]) for row in rows] == [
        ("match", "0", "0.4"), ("match", "0.2", "0.6"), ("match", "0.4", "0.8"), ("match", "0.6", "1"),
    ]  # fmt: skip
    predictor = load(run.path)
    for number, row in enumerate(rows):
        part = write_frames(tmp_path / str(number), frames[2 * number : 2 * number + 4])
        expected = predictor.predict(part)
        np.testing.assert_allclose([float(row[f"p({name})"]) for name in predictor.class_names], expected, atol=1e-5)
        assert row["predicted"] == predictor.class_names[expected.argmax()]
    assert read_metrics(output)["windows"] == {"match": 4}
    assert "match: 4 windows, " in capsys.readouterr().out
    assert "match: 4 windows, 1.0 seconds" in (output / "report.html").read_text()


@pytest.mark.slow
def test_windows_of_a_segment_have_the_times_of_its_video(run: RunFolder, tmp_path: Path) -> None:
    write_frames(tmp_path / "match", numbered(12))
    (tmp_path / "halves.csv").write_text("file,start,end\nmatch,0.6,1.2\n")
    evaluated(run.path, "--images", tmp_path / "halves.csv", "--window-seconds", 0.4, "--hop-seconds", 0.2)
    rows = read_rows(run.evaluation("images_halves.csv_windows"), "windows.csv")
    assert [(row["start_s"], row["end_s"]) for row in rows] == [("0.6", "1"), ("0.8", "1.2")]


@pytest.mark.slow
def test_predictions_of_new_clips_are_shown(run: RunFolder, tmp_path: Path, capsys: Capture) -> None:
    write_frames(tmp_path / "new" / "frames", numbered(4))
    write_clip(tmp_path / "new" / "video.mp4", numbered(4))
    evaluated(run.path, "--images", tmp_path / "new")
    lines, rows = capsys.readouterr().out.splitlines(), read_rows(run.evaluation("images_new"))
    assert [row["case"] for row in rows] == ["frames", "video"]
    text = (run.evaluation("images_new") / "report.html").read_text()
    for row in rows:
        said = f"{row['predicted']} ({float(row['p(' + row['predicted'] + ')']):.3f})"
        assert f"{row['case']:<6}  {said}" in lines
        assert f"<figcaption>{row['case']}: {said}</figcaption>" in text
    evaluated(run.path, "--images", tmp_path / "new" / "frames")  # one clip
    assert [row["case"] for row in read_rows(run.evaluation("images_frames"))] == ["frames"]


@pytest.mark.slow
def test_windows_need_clips_without_labels(run: RunFolder, capsys: Capture) -> None:
    said = refused(evaluate, capsys, "--run", run.path, "--window-seconds", "2")
    assert "--window-seconds goes with --images and one run that classifies clips" in said
