"""The class that is predicted by how files were made alone."""

import numpy as np

from data.metadata import Metadata, clip_metadata, predict_by_metadata


def clip(rate: float, codec: str = "h264") -> Metadata:
    return clip_metadata((64, 48), rate, 2.0, 1000, codec, "mov/mp4", "yuv420p")


def test_metadata_of_a_clip() -> None:
    found = clip_metadata((640, 480), 29.97, 4.0, 8000, "h264", "mov/mp4", "yuv420p")
    assert found["frame size"] == 307_200
    assert (found["frame rate"], found["length"], found["bytes a second"]) == (30.0, 4.0, 2000.0)


def test_a_frame_rate_or_a_codec_that_is_the_class() -> None:
    labels = [0, 1] * 10
    rates = [clip((15.0, 25.0)[label]) for label in labels]
    found = predict_by_metadata(rates, labels, {"a": clip(15.0), "b": clip(25.0)}, 3)
    np.testing.assert_allclose([found["a"], found["b"]], [[1, 0, 0], [0, 1, 0]])
    codecs = [clip(25.0, ("h264", "mpeg4")[label]) for label in labels]
    found = predict_by_metadata(codecs, labels, {"a": clip(25.0, "mpeg4"), "b": clip(25.0, "vp9")}, 2)
    np.testing.assert_allclose(found["a"], [0, 1])


def test_nothing_is_learnt_of_few_or_equal_cases() -> None:
    labels = [0, 1] * 10
    rates = [clip((15.0, 25.0)[label]) for label in labels]
    asked = {"a": clip(15.0)}
    assert predict_by_metadata(rates[:19], labels[:19], asked, 2) == {}
    assert predict_by_metadata(rates, [0] * 16 + [1] * 4, asked, 2) == {}
    assert predict_by_metadata(rates, [0] * 20, asked, 2) == {}
    assert predict_by_metadata([clip(15.0)] * 20, labels, asked, 2) == {}
    assert predict_by_metadata([], [], asked, 2) == {}
