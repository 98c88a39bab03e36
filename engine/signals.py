"""Requests to stop a run: SIGINT, SIGTERM, or a file STOP in the run's folder."""

import os
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """Raised in the middle of work that need not be finished, such as a validation."""


class StopRequest:
    """Notices that the run should stop; the loop asks it after each step.

    As a context manager it handles SIGINT and SIGTERM. The first one is a request; the second ends the process
    at once, as if nobody handled it.
    """

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._signal is not None or self.stop_file.exists()

    @property
    def reason(self) -> str:
        return self._signal.name if self._signal is not None else f"the file {self.stop_file}"

    @property
    def exit_code(self) -> int:
        """What the process should exit with: 128 + the signal's number, 0 for the file or no request."""
        return 0 if self._signal is None else 128 + self._signal

    def raise_if_requested(self) -> None:
        """Raise StopRequested where the run should stop."""
        if self.requested:
            raise StopRequested

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        text = f"\n{self._signal.name}: finishing this step and saving; once more to quit at once\n"
        os.write(2, text.encode())
