"""Requests to stop a run: SIGINT, SIGTERM, SIGHUP, or a file STOP in the run's folder."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequested(Exception):
    """Raised in the middle of work that need not be finished, such as a validation."""


class StopRequest:
    """Notices that the run should stop; the loop asks it after each step.

    As a context manager it handles SIGINT, SIGTERM and SIGHUP, which a closed terminal sends. The first one is a
    request; another SIGINT or SIGTERM ends the process at once, as without a handler. SIGHUP stays ignored where it
    is already, under nohup.

    `speaks`: whether it says on standard error that it noticed a signal.
    """

    def __init__(self, stop_file: Path, speaks: bool = True) -> None:
        self.stop_file = stop_file
        self._speaks = speaks
        self._signal: signal.Signals | None = None
        self._agreed: tuple[str, int] | None = None  # reason and exit code
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.is_agreed or self._signal is not None or self.stop_file.exists()

    @property
    def is_agreed(self) -> bool:
        """Whether all processes that train together know of a request."""
        return self._agreed is not None

    def adopt(self, reason: str, exit_code: int) -> None:
        """Stop for the reason for which another process, or this one, was asked to."""
        self._agreed = reason, exit_code

    @property
    def reason(self) -> str:
        if self._agreed is not None:
            return self._agreed[0]
        return self._signal.name if self._signal is not None else f"the file {self.stop_file}"

    @property
    def exit_code(self) -> int:
        """What the process should exit with: 128 + the signal's number, 0 for the file or no request."""
        if self._agreed is not None:
            return self._agreed[1]
        return 0 if self._signal is None else 128 + self._signal

    def raise_if_requested(self) -> None:
        """Raise StopRequested where the run should stop."""
        if self.requested:
            raise StopRequested

    def __enter__(self) -> Self:
        heard = [*_SIGNALS, *([] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP])]
        self._previous = {number: signal.signal(number, self._handle) for number in heard}
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
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal sends one, and its shell another
        text = f"\n{self._signal.name}: finishing this step and saving; once more to quit at once\n"
        if self._speaks:
            with suppress(OSError):  # the terminal is gone
                os.write(2, text.encode())


class StoppableData:
    """The data, except that loading a case gives way to a request to stop: a validation can be long."""

    def __init__(self, data: Any, stop: StopRequest) -> None:
        self._data, self._stop = data, stop

    def load(self, case: Any) -> Any:
        self._stop.raise_if_requested()
        return self._data.load(case)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)
