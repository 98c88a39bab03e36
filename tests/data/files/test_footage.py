"""Windows of a clip, cut while it is decoded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.files import footage
from data.files.clips import read_windows
from data.files.errors import FileProblem
from data.files.footage import Shown, cut_windows
from tests.data.clip_files import numbered, numbers_of, write_clip, write_frames


def shown(begins: list[float], end: float) -> Iterator[Shown]:
    for number, (begin, stop) in enumerate(zip(begins, [*begins[1:], end], strict=True)):
        yield Shown(lambda number=number: np.full((1, 1, 1), number, np.uint8), begin, stop)


def cut(begins: list[float], end: float, window: float, hop: float, rate: float | None = None) -> list[tuple]:
    found = cut_windows(Path("a.mp4"), shown(begins, end), window, hop, rate)
    return [(w.start_s, w.frames.ravel().tolist(), np.round(w.times_s, 3).tolist(), w.duration_s) for w in found]


def test_windows_overlap_and_lie_in_the_clip() -> None:
    assert cut([5.0, 6.0, 7.0, 8.0], 9.0, window=2, hop=1) == [  # timestamps need not begin at 0
        (0, [0, 1], [0, 1], 2), (1, [1, 2], [0, 1], 2), (2, [2, 3], [0, 1], 2),
    ]  # fmt: skip


def test_the_frame_on_show_at_the_beginning_is_the_first() -> None:
    assert cut([0.0, 0.9, 2.6], 4.0, window=2, hop=1) == [
        (0, [0, 1], [0, 0.9], 2), (1, [1, 2], [-0.1, 1.6], 2), (2, [1, 2], [-1.1, 0.6], 2),
    ]  # fmt: skip


def test_windows_with_gaps_between_them() -> None:
    assert [row[:2] for row in cut([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 6.0, 1, 2.5)] == [(0, [0]), (2.5, [2, 3]), (5, [5])]


def test_a_clip_shorter_than_a_window_is_one() -> None:
    assert cut([0.0, 0.5], 1.0, window=2, hop=1) == [(0, [0, 1], [0, 0.5], 1)]


def test_frames_that_no_multiple_of_the_rate_needs_are_not_decoded() -> None:
    assert cut([0.0, 0.25, 0.5, 0.75], 1.0, 1, 1, rate=2) == [(0, [0, 2], [0, 0.5], 1)]


def test_one_window_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage, "MAX_CLIP_BYTES", 3)
    assert len(cut([float(i) for i in range(50)], 50, window=2, hop=1)) == 49
    with pytest.raises(FileProblem, match=r"a\.mp4: a window of 9 seconds takes over 1 GB; choose a shorter one"):
        cut([float(i) for i in range(50)], 50, window=9, hop=1)


def test_windows_of_files(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.mp4", numbered(10))
    images = write_frames(tmp_path / "frames", numbered(10))
    for path in (video, images):
        part = read_windows(path, 0.4, 0.2, 32, interval_s=(0.5, 1.0), image_rate=10)
        assert [(numbers_of(window.frames), window.start_s) for window in part] == [([5, 6, 7, 8], 0)]
        found = list(read_windows(path, 0.4, 0.2, 32, image_rate=10))
        assert [numbers_of(window.frames) for window in found] == [list(range(n, n + 4)) for n in (0, 2, 4, 6)]
