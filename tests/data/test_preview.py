"""The preview picture is written, shows outlines, and picks the fullest slice."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from data.preview import fullest_slice, save_preview


def test_the_fullest_slice_else_the_middle_one() -> None:
    label = np.zeros((7, 8, 9), np.uint8)
    assert [fullest_slice(label, axis) for axis in range(3)] == [3, 4, 4]
    label[1, 2, 3] = label[5, 2, 4] = label[5, 6, 4] = 2
    assert [fullest_slice(label, axis) for axis in range(3)] == [5, 2, 4]


@pytest.mark.slow
def test_labels_are_outlined_in_colour(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 12, 14, 10, 1), dtype=np.float32)
    y = np.zeros((2, 12, 14, 10), np.int32)

    def coloured(name: str) -> int:
        save_preview(tmp_path / name, x, y, ("background", "organ", "vessel"), ("case_a", "case_b"))
        picture = imread(tmp_path / name)[..., :3]
        return int((np.ptp(picture, axis=-1) > 0.3).sum())

    assert coloured("empty.png") == 0
    y[1, 3:8, 4:9, 2:7] = 2
    assert coloured("outlined.png") > 100


def test_a_large_batch_is_cut_short(tmp_path: Path) -> None:
    x, y = np.zeros((5, 4, 4, 4, 1), np.float32), np.zeros((5, 4, 4, 4), np.uint8)
    save_preview(tmp_path / "some.png", x, y, ("background", "organ"), list("abcde"), limit=2)
    assert imread(tmp_path / "some.png").shape[0] == 650  # 3 inches a row and half an inch, at 100 dots


@pytest.mark.parametrize(("channels", "y"), [(3, np.array([1, 0])), (1, np.array([[1, 1], [0, 0]], np.float32))])
def test_samples_with_classes(tmp_path: Path, channels: int, y: np.ndarray) -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 8, 8, channels)).astype(np.float32)
    save_preview(tmp_path / "batch.png", x, y, ("calm", "fight"), ("a", "b"), is_clip=True)
    picture = imread(tmp_path / "batch.png")
    assert picture.shape[:2] == (380, 900)
    assert (np.ptp(picture[..., :3], axis=-1) > 0.1).any() == (channels == 3)  # colour
