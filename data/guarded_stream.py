"""Guards of the pipeline in `data/loader.py`: errors name their case, exits are clean, and threads replace mlx-data."""

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

Item = dict[str, int]  # position: of a sample; batch: that it goes into
Sample = dict[str, np.ndarray]
# Streams still open at exit would abort the interpreter (mlx-data 0.1).
_OPEN: "weakref.WeakSet[Stream]" = weakref.WeakSet()


class Stream:
    """Batches made by threads ahead of their use, each an array by name.

    Close it, best as a context manager: `with make_stream(...) as stream: batch = stream.next()`.
    """

    seconds_waiting: float
    """Wall time that `next` has been blocked, in all."""

    def __init__(
        self,
        start: Callable[[Callable[[Item], Sample]], Any],
        sample: Callable[[int], Sample],
        num_batches: int,
        describe: Callable[[int], str],
    ) -> None:
        """start: returns the pipeline, which calls its argument for each item; see `data.loader.make_stream`."""
        self.seconds_waiting = 0.0
        self.num_batches = num_batches
        self._start = start
        self._sample = sample
        self._describe = describe
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._failure: tuple[int, BaseException] | None = None
        self._expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None
        self._begun: set[int] = set()  # batches that hold a real sample
        self._stream: Any = None
        self._given = 0

    def next(self) -> Sample | None:
        """The next batch, each array with the batch as its first axis; None after the last one.

        Raises what a sample raised, with its case named; then the stream is closed.
        """
        if self._stopped.is_set() or self._given == self.num_batches:
            self.close()
            return None
        if self._stream is None:
            _OPEN.add(self)
            self._stream = self._start(self._call)
        started = time.perf_counter()
        try:
            batch = self._stream.next()
        except BaseException:
            self.close()
            raise
        finally:
            self.seconds_waiting += time.perf_counter() - started
        if self._failure is not None:
            self.close()
            position, error = self._failure
            error.add_note(f"while reading {self._describe(position)}")
            raise error
        self._given += 1
        return dict(batch)

    def close(self) -> None:
        """Stops the threads and frees the batches that wait. Safe to call again."""
        self._stopped.set()
        # Dropping mlx-data's stream joins its threads; what is queued returns at once, as the flag is set.
        if isinstance(self._stream, Threads):
            self._stream.close()
        self._stream = None
        _OPEN.discard(self)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, item: Item) -> Sample:
        """Runs in mlx-data's threads, where an exception would abort the process: nothing leaves here."""
        position, batch = int(item["position"]), int(item["batch"])
        if self._stopped.is_set() or self._failure is not None:
            return self._dummy(batch)
        try:
            arrays = {key: np.require(value, None, ["C", "W"]) for key, value in self._sample(position).items()}
            self._check(arrays)
        except BaseException as error:
            with self._lock:
                if self._failure is None:
                    self._failure = (position, error)
            return self._dummy(batch)
        self._begun.add(batch)
        return arrays

    def _dummy(self, batch: int) -> Sample:
        """What nobody will see. It has to look like the batch's samples before it: all of a batch pass here in
        order, in one thread, and mlx-data refuses keys or dtypes that differ."""
        if batch in self._begun:
            assert self._expected is not None
            return {key: np.zeros(shape, dtype) for key, (shape, dtype) in self._expected.items()}
        return {"dummy": np.zeros(1, np.uint8)}

    def _check(self, arrays: Sample) -> None:
        """All samples alike: mlx-data would pad a smaller one with zeros and say nothing."""
        found = {key: (array.shape, array.dtype) for key, array in arrays.items()}
        with self._lock:
            if self._expected is None:
                self._expected = found
        if found != self._expected:
            raise ValueError(
                f"samples of one stream must agree in shape and dtype; expected {_readable(self._expected)}, "
                f"got {_readable(found)}; give all the same patch size and dtype"
            )


class Threads:
    """What `buffer.sample_transform(call).batch(batch_size).ordered_prefetch(prefetch, workers)` is in mlx-data."""

    def __init__(
        self,
        items: Sequence[Item],
        call: Callable[[Item], Sample],
        batch_size: int,
        prefetch: int,
        workers: int,
    ) -> None:
        self._batches = iter([items[i : i + batch_size] for i in range(0, len(items), batch_size)])
        self._call = call
        self._prefetch = max(1, prefetch)
        self._pool = ThreadPoolExecutor(workers)
        self._ahead: deque[Future[Sample]] = deque()

    def next(self) -> Sample:
        """The next batch; empty after the last one."""
        self._fill()
        if not self._ahead:
            return {}
        batch = self._ahead.popleft()
        self._fill()
        return batch.result()

    def close(self) -> None:
        """Stop the threads, once each has ended its batch."""
        self._pool.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._ahead) < self._prefetch and (batch := next(self._batches, None)) is not None:
            self._ahead.append(self._pool.submit(self._make, batch))

    def _make(self, batch: Sequence[Item]) -> Sample:
        samples = [self._call(item) for item in batch]
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def _readable(shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return ", ".join(f"{key} {dtype} {list(shape)}" for key, (shape, dtype) in shapes.items())


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        stream.close()
