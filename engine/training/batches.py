"""Batches for the loop, epoch after epoch."""

from typing import Protocol

from engine.distributed.group import ALONE, Group
from engine.training.step import Batch


class BatchStream(Protocol):
    """One epoch's batches."""

    seconds_waiting: float

    def next(self) -> Batch | None: ...

    def close(self) -> None: ...


class TrainingData(Protocol):
    """What the loop needs of the data; an epoch and a position in it always give the same batches."""

    fingerprint: str

    @property
    def batches_per_epoch(self) -> int: ...

    def train_stream(self, epoch: int, first_batch: int = 0) -> BatchStream: ...


class Feed:
    """The batches of each step, epoch after epoch, with one stream open at a time.

    In a `group` each process gets its share, and a case that one of them cannot read ends all of them.
    """

    def __init__(self, data: TrainingData, steps_per_epoch: int, accumulate: int, group: Group = ALONE) -> None:
        self.data = data
        self._group = group
        self._steps_per_epoch = steps_per_epoch
        self._accumulate = accumulate
        self._stream: BatchStream | None = None
        self._epoch = -1

    def next(self, step: int) -> tuple[list[Batch], float]:
        """Return the batches of a step, and the seconds waited for them; steps count from 0, one a call."""
        epoch, done = divmod(step, self._steps_per_epoch)
        with self._group.together():
            if self._stream is None or epoch != self._epoch:
                self.close()
                self._epoch = epoch
                self._stream = self.data.train_stream(epoch, first_batch=done * self._accumulate)
            before = self._stream.seconds_waiting
            batches = [batch for _ in range(self._accumulate) if (batch := self._stream.next()) is not None]
            assert len(batches) == self._accumulate, f"epoch {epoch} ended early"
            return batches, self._stream.seconds_waiting - before

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
