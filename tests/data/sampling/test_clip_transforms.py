"""Which frames, which part of them, which colours: by value."""

import numpy as np
import pytest

from configs.schema.data import Clip
from data.sampling.clip_transforms import (
    change_colours,
    cut,
    draw_box,
    draw_segment,
    normalise,
    place_boxes,
    place_segments,
)

UNEVEN = np.array([0.0, 0.1, 0.5, 0.6, 1.0, 1.5])  # seconds; the clip lasts 2


def clip(**settings: object) -> Clip:
    return Clip(**{"short_side_pixels": 20, "crop_pixels": (12, 16), **settings})


def draws(times: np.ndarray, duration: float, settings: Clip, count: int = 200) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [draw_segment(times, duration, settings, rng).tolist() for _ in range(count)]


class TestSegments:
    def test_by_stored_frames(self) -> None:
        times = np.arange(10) / 25
        found = draws(times, 0.4, clip(frames=3, stride=2))
        assert {tuple(segment) for segment in found} == {(s, s + 2, s + 4) for s in range(6)}  # each start occurs

    def test_by_frame_rate_takes_what_is_on_show(self) -> None:
        (segment,) = place_segments(UNEVEN, 2.0, clip(frames=4, frame_rate=2.0))  # 0, 0.5, 1, 1.5 seconds
        assert segment.tolist() == [0, 2, 4, 5]
        for found in draws(UNEVEN, 2.0, clip(frames=2, frame_rate=2.0)):
            assert 0.1 < UNEVEN[found[1]] - UNEVEN[found[0]] <= 0.9
        # differences take one more
        assert place_segments(np.arange(9.0), 9.0, clip(frames=8, input="differences")).tolist() == [list(range(9))]

    @pytest.mark.parametrize(
        ("short", "expected"),
        [("hold", [0, 1, 2, 2, 2, 2]), ("loop", [0, 1, 2, 0, 1, 2]), ("error", [0, 1, 2, 2, 2, 2])],
    )
    def test_short_clips(self, short: str, expected: list[int]) -> None:
        times = np.arange(3) / 10
        assert place_segments(times, 0.3, clip(frames=6, short=short)).tolist() == [expected]
        assert draws(times, 0.3, clip(frames=6, frame_rate=10, short=short), 3) == [expected] * 3

    def test_evenly_spaced(self) -> None:
        times = np.arange(20) / 10
        assert place_segments(times, 2.0, clip(frames=4))[:, 0].tolist() == [8]
        found = place_segments(times, 2.0, clip(frames=4, clips=3))
        assert found[:, 0].tolist() == [0, 8, 16]
        assert found[2].tolist() == [16, 17, 18, 19]
        assert place_segments(times, 2.0, clip(frames=4, frame_rate=10, clips=2))[:, 0].tolist() == [0, 16]

    def test_speed(self) -> None:
        times = np.arange(100) / 10
        for segment in draws(times, 10.0, clip(frames=5, frame_rate=10, augment={"speed": (2, 2)}), 20):
            assert np.diff(segment).tolist() == [2, 2, 2, 2]

    def test_a_single_frame(self) -> None:
        settings = clip(frames=4, single_frame=True)
        assert place_segments(np.arange(9.0), 9.0, settings).tolist() == [[4, 4, 4, 4]]
        found = draws(np.arange(9.0), 9.0, settings)
        assert all(len(set(segment)) == 1 for segment in found)
        assert {segment[0] for segment in found} == set(range(9))


class TestBoxes:
    def test_centre_and_three_along_the_longer_side(self) -> None:
        assert place_boxes((1, 20, 30, 3), clip()) == [(4, 7, 12, 16)]
        assert place_boxes((1, 20, 30, 3), clip(crops=3)) == [(4, 0, 12, 16), (4, 7, 12, 16), (4, 14, 12, 16)]
        assert place_boxes((1, 30, 20, 3), clip(crops=3)) == [(0, 2, 12, 16), (9, 2, 12, 16), (18, 2, 12, 16)]

    def test_random_ones_cut_whole_pixels_all_over_the_frame_alike(self) -> None:
        rng = np.random.default_rng(0)
        boxes = np.array([draw_box((1, 20, 30, 3), clip(), rng) for _ in range(500)])
        assert (boxes[:, 2:] == (12, 16)).all()
        assert (boxes == boxes.astype(int)).all()
        assert (boxes[:, 0].min(), boxes[:, 0].max()) == (0, 8)
        assert (boxes[:, 1].min(), boxes[:, 1].max()) == (0, 14)
        rng = np.random.default_rng(0)
        lefts = [draw_box((1, 20, 19, 3), clip(crop_pixels=(20, 16)), rng)[1] for _ in range(4000)]
        np.testing.assert_allclose(np.bincount(np.array(lefts, int)) / 4000, 1 / 4, atol=0.02)

    @pytest.mark.parametrize("margin", [4, 5, 6, 7])
    def test_odd_margins_are_halved_down(self, margin: int) -> None:
        assert place_boxes((1, 12, 16 + margin, 3), clip())[0][1] == margin // 2

    def test_aspects_are_drawn_evenly_in_the_logarithm(self) -> None:
        rng = np.random.default_rng(0)
        settings = clip(augment={"aspect": (0.5, 2.0), "zoom": (2.0, 2.0)})
        boxes = np.array([draw_box((1, 40, 60, 3), settings, rng) for _ in range(2000)])
        assert (boxes[:, 3] / boxes[:, 2] * 12 / 16 < 1).mean() == pytest.approx(0.5, abs=0.04)

    def test_zoom_and_aspect(self) -> None:
        rng = np.random.default_rng(0)
        for zoom, aspect in ((2.0, 1.0), (1.0, 1.44), (0.1, 1.0)):
            settings = clip(augment={"zoom": (zoom, zoom), "aspect": (aspect, aspect)})
            top, left, height, width = draw_box((1, 20, 30, 3), settings, rng)
            assert width / height == pytest.approx(16 / 12 * aspect)
            if zoom >= 1:
                assert height * width == pytest.approx(12 * 16 / zoom**2)
            assert 0 <= top <= 20 + 1e-9 - height
            assert 0 <= left <= 30 + 1e-9 - width


class TestCut:
    def test_a_box_of_the_right_size_is_copied_pixel_by_pixel(self) -> None:
        frames = np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3)).astype(np.uint8)
        np.testing.assert_array_equal(cut(frames, (3, 5, 12, 16), (12, 16)), frames[:, 3:15, 5:21])

    @pytest.mark.parametrize("channels", [1, 3])
    def test_others_are_resized(self, channels: int) -> None:
        ramp = 4 * np.arange(40, dtype=np.uint8)  # along W
        wide = np.ascontiguousarray(np.broadcast_to(ramp[None, None, :, None], (3, 40, 40, channels)))
        found = cut(wide, (0, 8, 24, 16), (12, 16))
        assert found.shape == (3, 12, 16, channels)
        np.testing.assert_array_equal(found[0, 0, :, 0], 4 * np.arange(8, 24))
        half = cut(wide, (0, 8, 24, 32), (12, 16))
        np.testing.assert_allclose(half[0, 0, 2:-2, 0], 4 * (8.5 + 2 * np.arange(2, 14)), atol=1)


class TestColours:
    pixels = np.random.default_rng(0).uniform(0.2, 0.6, (4, 5, 6, 3)).astype(np.float32)

    def change(self, **ranges: tuple[float, float]) -> np.ndarray:
        return change_colours(self.pixels, clip(augment=ranges).augment, np.random.default_rng(0))

    def test_off_brightness_and_contrast_which_keeps_the_mean(self) -> None:
        assert self.change() is self.pixels
        np.testing.assert_allclose(self.change(brightness=(1.5, 1.5)), self.pixels * 1.5, rtol=1e-6)
        assert self.change(brightness=(9, 9)).max() == 1
        changed = self.change(contrast=(0.5, 0.5))
        assert changed.mean() == pytest.approx(self.pixels.mean(), abs=1e-5)
        assert changed.std() == pytest.approx(self.pixels.std() / 2, rel=1e-4)

    def test_saturation_which_grey_clips_lack(self) -> None:
        grey = self.pixels @ np.array([0.299, 0.587, 0.114], np.float32)
        half = self.change(saturation=(0.5, 0.5))
        np.testing.assert_allclose(half, (self.pixels + grey[..., None]) / 2, atol=1e-6)
        grey = self.pixels[..., :1]
        changed = change_colours(grey, clip(augment={"saturation": (0.5, 0.5)}).augment, np.random.default_rng(0))
        np.testing.assert_allclose(changed, grey, atol=1e-6)


def test_normalisation_and_differences() -> None:
    pixels = np.full((3, 2, 2, 3), 0.5, np.float32)
    found = normalise(pixels, clip(frames=3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.5)))
    np.testing.assert_allclose(found[0, 0, 0], [1, 0, -0.2], atol=1e-6)
    assert found.dtype == np.float32
    pixels = np.array([0.1, 0.3, 0.2], np.float32).reshape(3, 1, 1, 1)
    found = normalise(pixels, clip(frames=2, input="differences", colour="grey", mean=(0.4,), std=(0.5,)))
    np.testing.assert_allclose(found.ravel(), [0.4, -0.2], atol=1e-6)
    assert found.dtype == np.float32
