"""Batches through mlx-data, in the order asked for: the same whatever the number of threads.

The guards of the pipeline are in `data/guarded_stream.py`; `data/plain_threads.py` stands in for mlx-data.
"""

from collections.abc import Callable, Sequence
from typing import Any

from data.guarded_stream import Item, Sample, Stream
from data.plain_threads import ThreadBuffer


def make_stream(
    order: Sequence[int],
    sample: Callable[[int], Sample],
    batch_size: int,
    workers: int = 1,
    prefetch: int = 4,
    describe: Callable[[int], str] = str,
) -> Stream:
    """Return a Stream over `sample(position)` for each position of the order, `batch_size` at a time.

    `sample` runs in `workers` threads, at most `prefetch` batches ahead; it returns arrays of the same shapes
    and dtypes each time (of int8, uint8, int32, int64, float32, float64) and must depend on its argument
    alone. The last batch may be short. `describe(position)` names the sample in an error. Close the Stream after use.
    """
    items = [{"position": position, "batch": i // batch_size} for i, position in enumerate(order)]
    num_batches = -(-len(order) // batch_size)

    def pipeline(guarded_sample: Callable[[Item], Sample]) -> Any:
        return (
            _buffer(items)
            .sample_transform(guarded_sample)
            .batch(batch_size)
            .ordered_prefetch(min(prefetch, num_batches), workers)  # further ahead, samples are computed twice
        )

    return Stream(pipeline, sample, num_batches, describe)


def _buffer(items: Sequence[Item]) -> Any:
    """Return mlx-data's buffer of the items; where it has no wheel, as for Linux on Arm, one of plain threads."""
    try:
        from mlx.data import buffer_from_vector
    except ModuleNotFoundError:
        return ThreadBuffer(items)
    return buffer_from_vector(items)
