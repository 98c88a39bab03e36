import numpy as np

from engine.reports.slices import cut_slices


def test_planes_with_most_of_the_reference() -> None:
    reference = np.zeros((6, 7, 300), np.uint8)
    reference[1, 2, 3] = 1
    reference[4, 3:6, 200:203] = 2
    reference[3, 5, 201] = 2
    prediction = np.roll(reference, 1, axis=0)
    slices = cut_slices(prediction, reference, (3.0, 1.0, 1.0))
    assert slices.positions == (4, 5, 201)
    for axis, position in enumerate(slices.positions):
        np.testing.assert_array_equal(slices.reference(axis), reference.take(position, axis))
        np.testing.assert_array_equal(slices.prediction(axis), prediction.take(position, axis))
        np.testing.assert_array_equal(slices.cut(prediction, axis), slices.prediction(axis))


def test_without_reference_the_prediction_decides_and_without_foreground_the_middle() -> None:
    prediction = np.zeros((6, 7, 8), np.uint8)
    prediction[5, 1, 2] = 1
    assert cut_slices(prediction, None, (1.0, 1.0, 1.0)).positions == (5, 1, 2)
    assert cut_slices(prediction, None, (1.0, 1.0, 1.0)).reference(0) is None
    assert cut_slices(prediction, np.zeros_like(prediction), (1.0, 1.0, 1.0)).positions == (5, 1, 2)
    assert cut_slices(np.zeros((6, 7, 8), np.uint8), None, (1.0, 1.0, 1.0)).positions == (3, 3, 4)
