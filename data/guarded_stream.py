"""Guards of the pipeline in `data/loader.py`: errors name their case, samples are alike, exits are clean."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from data.plain_threads import Item, Sample, ThreadBuffer

# Streams still open at exit would abort the interpreter (mlx-data 0.1).
_OPEN: "weakref.WeakSet[Stream]" = weakref.WeakSet()


class Stream:
    """Batches that threads make ahead of their use, each an array by name.

    Close it, best as a context manager: `with make_stream(...) as stream: batch = stream.next()`. `seconds_waiting` is
    the wall time for which `next` has blocked so far.
    """

    def __init__(
        self,
        pipeline: Callable[[Callable[[Item], Sample]], Any],
        sample: Callable[[int], Sample],
        num_batches: int,
        describe: Callable[[int], str],
    ) -> None:
        """Take the arguments of `data.loader.make_stream`; `pipeline` starts the threads, which call its argument."""
        self.seconds_waiting = 0.0
        self.num_batches = num_batches
        self._pipeline = pipeline
        self._sample = sample
        self._describe = describe
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._failure: tuple[int, BaseException] | None = None
        self._expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None
        self._begun: set[int] = set()  # batches that hold a real sample
        self._running: Any = None
        self._given = 0

    def next(self) -> Sample | None:
        """Return the next batch, each array with the batch as its first axis; None after the last one.

        Raises what a sample raised, with its case named; then the stream is closed.
        """
        if self._stopped.is_set() or self._given == self.num_batches:
            self.close()
            return None
        if self._running is None:
            _OPEN.add(self)
            self._running = self._pipeline(self._guarded_sample)
        started = time.perf_counter()
        try:
            batch = self._running.next()
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
        """Stop the threads and free the batches that wait. Safe to call again."""
        self._stopped.set()
        # Dropping mlx-data's stream joins its threads; what is queued returns at once, as the flag is set.
        if isinstance(self._running, ThreadBuffer):
            self._running.close()
        self._running = None
        _OPEN.discard(self)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guarded_sample(self, item: Item) -> Sample:
        """Return the item's sample. Raises nothing: an exception in mlx-data's threads aborts the process."""
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
        """Return a sample of a batch that is never given out.

        It looks like the batch's samples before it, as mlx-data refuses keys or dtypes that differ. One thread makes
        all samples of a batch, in order.
        """
        if batch in self._begun:
            assert self._expected is not None
            return {key: np.zeros(shape, dtype) for key, (shape, dtype) in self._expected.items()}
        return {"dummy": np.zeros(1, np.uint8)}

    def _check(self, arrays: Sample) -> None:
        """Require that all samples are alike: mlx-data pads smaller ones with zeros, without a warning."""
        found = {key: (array.shape, array.dtype) for key, array in arrays.items()}
        with self._lock:
            if self._expected is None:
                self._expected = found
        if found != self._expected:
            raise ValueError(
                f"samples of one stream must agree in shape and dtype; expected {_readable(self._expected)}, "
                f"got {_readable(found)}; give all the same patch size and dtype"
            )


def _readable(shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return ", ".join(f"{key} {dtype} {list(shape)}" for key, (shape, dtype) in shapes.items())


@atexit.register
def _close_all() -> None:
    for stream in list(_OPEN):
        stream.close()
