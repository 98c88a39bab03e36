"""How volumes are cut for the fused norm: vectors repeated to a row's width."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fused norm needs Numba")


@pytest.mark.parametrize("channels", [16, 256, 320])
def test_a_vector_for_all_samples_is_repeated_for_each(channels: int) -> None:
    """From 256 channels on a row is one voxel, and nothing but the broadcast is left to lay out memory."""
    from ops.cpu.norm_kernels import layout

    vector = np.arange(channels, dtype=np.float32)
    cut = layout(2, 64, channels)
    rows = cut.repeat(vector)
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, np.tile(vector, (2, cut.row // channels)))
