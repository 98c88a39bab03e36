"""Generated clips: real files whose classes differ in motion alone."""

from pathlib import Path

import numpy as np
import pytest

from data.files.clips import read_clip
from data.synthetic.moving_shapes import DIRECTIONS, main, make_clip


def drift(frames: np.ndarray) -> np.ndarray:
    """(rows, columns) that the picture moves a frame, by the phases of its lowest frequencies."""
    grey = frames.mean(axis=-1)
    moving = np.abs(grey - np.median(grey, axis=0))  # the blob, without the background
    spectrum = np.fft.fft2(moving)
    size = np.array(moving.shape[1:])
    steps = [np.angle(spectrum[1:, i, j] * spectrum[:-1, i, j].conj()) for i, j in ((1, 0), (0, 1))]
    return -np.median(steps, axis=1) * size / (2 * np.pi)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_blob_moves_as_its_class_says(name: str) -> None:
    for seed in range(4):
        found = drift(make_clip(np.random.default_rng(seed), DIRECTIONS[name]))
        along = float(found @ DIRECTIONS[name])
        assert 1.5 < along < 4
        assert np.abs(found - along * np.array(DIRECTIONS[name])).max() < 0.5


@pytest.mark.slow
def test_single_frames_are_alike() -> None:
    first = {name: make_clip(np.random.default_rng(7), direction)[0] for name, direction in DIRECTIONS.items()}
    assert all(np.array_equal(first["up"], picture) for picture in first.values())
    places = []
    for seed in range(300):  # a later frame's blob lies anywhere, evenly
        frames = make_clip(np.random.default_rng(seed), DIRECTIONS["right"], frames=8).mean(axis=-1)
        places.append(np.abs(frames[6] - np.median(frames, axis=0)).sum(axis=0).argmax())
    counts = np.histogram(places, bins=4, range=(0, 48))[0]
    assert counts.min() > 45  # 75 expected


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "a"), "--clips", "1"]) == 0
    assert "4 clips" in capsys.readouterr().out
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mp4"))
    assert [str(path) for path in files] == [f"{name}/{name}_000.mp4" for name in sorted(DIRECTIONS)]
    for number, (name, direction) in enumerate(DIRECTIONS.items()):
        drawn = make_clip(np.random.default_rng([0, number, 0]), direction).astype(int)
        kept = read_clip(tmp_path / "a" / name / f"{name}_000.mp4", short_side=48).frames
        assert np.abs(kept - drawn).mean() < 8  # its noise is mostly compressed away
    footage = read_clip(tmp_path / "a" / "left" / "left_000.mp4", short_side=48)
    assert footage.frames.shape == (16, 48, 48, 3)
    np.testing.assert_allclose(np.diff(footage.times_s), 1 / 12, atol=1e-3)
    assert drift(footage.frames)[1] < -1.5


def test_a_folder_with_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert main([str(tmp_path)]) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err
