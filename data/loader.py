"""Batches through mlx-data: in the plan's order, the same whatever the number of threads.

Where mlx-data has no wheel (Linux on Arm), plain threads make the same batches.
"""

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

Sample = dict[str, np.ndarray]
# Streams still open at exit would abort the interpreter (mlx-data 0.1).
_OPEN: "weakref.WeakSet[Stream]" = weakref.WeakSet()


class Stream:
    """Batches of the samples that a plan lists, made by threads ahead of their use.

    Close it, best as a context manager: `with make_stream(...) as stream: batch = stream.next()`.
    """

    seconds_waiting: float
    """Wall time that `next` has been blocked, in all."""

    def __init__(
        self,
        plan: Sequence[int],
        sample: Callable[[int], Sample],
        batch_size: int,
        workers: int = 1,
        prefetch: int = 4,
        describe: Callable[[int], str] = str,
    ) -> None:
        self.seconds_waiting = 0.0
        self.num_batches = -(-len(plan) // batch_size)
        self._sample = sample
        self._describe = describe
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._failure: tuple[int, BaseException] | None = None
        self._expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None
        self._begun: set[int] = set()  # batches that hold a real sample
        self._stream: Any = None
        self._settings = (list(plan), batch_size, workers, prefetch)
        self._given = 0

    def next(self) -> Sample | None:
        """The next batch, each array with the batch as its first axis; None after the last one.

        Raises what a sample raised, with its case named; then the stream is closed.
        """
        if self._stopped.is_set() or self._given == self.num_batches:
            self.close()
            return None
        if self._stream is None:
            self._stream = self._build()
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
        if isinstance(self._stream, _Threads):
            self._stream.close()
        self._stream = None
        _OPEN.discard(self)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _build(self) -> Any:
        plan, batch_size, workers, prefetch = self._settings
        items = [{"position": position, "batch": i // batch_size} for i, position in enumerate(plan)]
        _OPEN.add(self)
        try:
            import mlx.data
        except ModuleNotFoundError:
            return _Threads(items, self._call, batch_size, prefetch, workers)
        buffer = mlx.data.buffer_from_vector(items)
        buffer = buffer.sample_transform(self._call).batch(batch_size)
        # A depth beyond the number of batches would compute samples twice.
        return buffer.ordered_prefetch(min(prefetch, self.num_batches), workers)

    def _call(self, item: dict[str, Any]) -> Sample:
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


class _Threads:
    """What `buffer.sample_transform(call).batch(batch_size).ordered_prefetch(prefetch, workers)` is in mlx-data."""

    def __init__(
        self,
        items: Sequence[dict[str, int]],
        call: Callable[[dict[str, int]], Sample],
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

    def _make(self, batch: Sequence[dict[str, int]]) -> Sample:
        samples = [self._call(item) for item in batch]
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def make_stream(
    plan: Sequence[int],
    sample: Callable[[int], Sample],
    batch_size: int,
    workers: int = 1,
    prefetch: int = 4,
    describe: Callable[[int], str] = str,
) -> Stream:
    """A Stream over `sample(position)` for each position of the plan, in its order, `batch_size` at a time.

    `sample` runs in `workers` threads, at most `prefetch` batches ahead; it returns arrays of the same shapes
    and dtypes each time (of int8, uint8, int32, int64, float32, float64) and must depend on its argument
    alone. The last batch may be short. `describe(position)` names the sample in an error.
    """
    return Stream(plan, sample, batch_size, workers, prefetch, describe)


def _readable(shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return ", ".join(f"{key} {dtype} {list(shape)}" for key, (shape, dtype) in shapes.items())


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        stream.close()
