"""Batches through mlx-data, in the order asked for: the same whatever the number of threads."""

from collections.abc import Callable, Sequence
from typing import Any

from data.guarded_stream import Item, Sample, Stream, Threads


def make_stream(
    order: Sequence[int],
    sample: Callable[[int], Sample],
    batch_size: int,
    workers: int = 1,
    prefetch: int = 4,
    describe: Callable[[int], str] = str,
) -> Stream:
    """A Stream over `sample(position)` for each position of the order, `batch_size` at a time; close it after use.

    `sample` runs in `workers` threads, at most `prefetch` batches ahead; it returns arrays of the same shapes
    and dtypes each time (of int8, uint8, int32, int64, float32, float64) and must depend on its argument
    alone. The last batch may be short. `describe(position)` names the sample in an error.
    """
    items = [{"position": position, "batch": i // batch_size} for i, position in enumerate(order)]
    num_batches = -(-len(order) // batch_size)

    def start(make: Callable[[Item], Sample]) -> Any:
        """make: what `sample` returns for an item; `Stream` guards it, as no error may leave mlx-data's threads."""
        try:
            import mlx.data
        except ModuleNotFoundError:  # no wheel, as for Linux on Arm: plain threads make the same batches
            return Threads(items, make, batch_size, prefetch, workers)
        return (
            mlx.data.buffer_from_vector(items)
            .sample_transform(make)
            .batch(batch_size)
            # A depth beyond the number of batches would compute samples twice.
            .ordered_prefetch(min(prefetch, num_batches), workers)
        )

    return Stream(start, sample, num_batches, describe)
