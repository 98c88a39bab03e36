"""What stands in for mlx-data where it has no wheel: the same batches in the same order, from plain threads."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

Item = dict[str, int]  # position: of a sample; batch: that it goes into
Sample = dict[str, np.ndarray]


class ThreadBuffer:
    """The part of mlx-data's buffers and streams that `data/loader.py` uses; a thread makes a whole batch."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def sample_transform(self, transform: Callable[[Item], Sample]) -> "ThreadBuffer":
        self._transform = transform
        return self

    def batch(self, size: int) -> "ThreadBuffer":
        self._batches = iter([self._items[i : i + size] for i in range(0, len(self._items), size)])
        return self

    def ordered_prefetch(self, prefetch: int, workers: int) -> "ThreadBuffer":
        self._prefetch = max(1, prefetch)
        self._pool = ThreadPoolExecutor(workers)
        self._ahead: deque[Future[Sample]] = deque()
        return self

    def next(self) -> Sample:
        """Return the next batch; an empty one after the last."""
        self._fill()
        if not self._ahead:
            return {}
        batch = self._ahead.popleft()
        self._fill()
        return batch.result()

    def close(self) -> None:
        """Stop the threads, each after its batch."""
        self._pool.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._ahead) < self._prefetch and (batch := next(self._batches, None)) is not None:
            self._ahead.append(self._pool.submit(self._make, batch))

    def _make(self, batch: Sequence[Item]) -> Sample:
        samples = [self._transform(item) for item in batch]
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
