import numpy as np

from engine.metrics.arithmetic import divide, nan_mean, row_means


def test_what_does_not_exist_is_nan() -> None:
    np.testing.assert_array_equal(divide(np.array([1.0, 0.0, 3.0]), np.array([2, 0, 0])), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(row_means(np.array([[1, np.nan, 3, np.inf], [np.nan] * 4])), [2, np.nan])
    assert nan_mean([1.0, np.nan, 4.0, -np.inf]) == 2.5
    assert np.isnan(nan_mean([]))
