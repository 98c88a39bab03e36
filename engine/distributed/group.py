"""The group of processes that train one network: their messages, agreements and common end.

`mlx.launch` starts one process for each device, and `mx.distributed` carries the messages. Each process takes its share
of every batch, and exchanges everything else through `Group`. All processes call a group's methods in the same order.
All messages of `agree` have one form, so that a process that fails anywhere reaches the others at their next message.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from engine.distributed.liveness import Peers, own_address
from engine.runs.stopping import StopRequest, StopRequested
from machine.terminal import PrintableFormatter, say

_log = logging.getLogger("mlx_volumes")

STALLED = 75  # exit code, EX_TEMPFAIL: nothing is wrong with the run, it can be resumed
_RANK_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
_MESSAGE_BYTES = 4096
_FINE, _STOPPED, _FAILED = range(3)


class GroupError(RuntimeError):
    """The processes cannot go on together."""


class PeerFailed(GroupError):
    """Another process failed and sent the reason."""


class PeerLost(GroupError):
    """Another process is gone."""


class _AgreedStop(StopRequested):
    """A request to stop that all processes know of."""


class Group:
    """The processes that train together; without a communicator this process is alone, and sends no messages.

    rank   this process' number; rank 0 writes the run
    size   number of processes
    """

    def __init__(self, communicator: mx.distributed.Group | None = None) -> None:
        self._communicator = communicator
        self.rank = 0 if communicator is None else communicator.rank()
        self.size = 1 if communicator is None else communicator.size()
        self.is_broken = False  # no more messages can be sent
        self.is_told = False  # all processes know of the failure that ends them
        self._timeout: float | None = None
        self._waiting: tuple[float, str] | None = None  # since when, for what
        self._peers = Peers([])
        if self.size > 1:
            self._peers = Peers(self.gather_texts(own_address()))

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """End this context in all processes if it fails in one of them.

        The process that failed raises its error, the others PeerFailed. If none failed and one raised StopRequested,
        all raise StopRequested.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except (GroupError, _AgreedStop):
            raise
        except Exception as error:
            if not self.is_broken and not self.is_told:
                self.agree(error)
            raise
        if not self.is_told:
            self.agree()

    def agree(self, error: Exception | None = None) -> None:
        """Exchange errors with the other processes; raise PeerFailed or StopRequested where one of them has one."""
        kind = _FINE if error is None else _STOPPED if isinstance(error, StopRequested) else _FAILED
        kinds, texts = self._exchange(kind, "" if error is None else describe(error))
        self.is_told = _FAILED in kinds
        if kind == _FAILED:
            return
        if _FAILED in kinds:
            causes: dict[str, list[int]] = {}
            for rank, (other, text) in enumerate(zip(kinds, texts, strict=True)):
                if other == _FAILED:
                    causes.setdefault(text, []).append(rank)
            raise PeerFailed("; ".join(f"rank {', '.join(map(str, r))}: {text}" for text, r in causes.items()))
        if kind == _FINE and _STOPPED in kinds:
            raise _AgreedStop

    def is_asked_to_stop(self, stop: StopRequest) -> bool:
        """Return whether any process was asked to stop; then `stop` is set in all of them."""
        if self.size == 1 or stop.is_agreed:
            return stop.requested
        requested = stop.requested
        kinds, texts = self._exchange(_FINE, f"{stop.exit_code} {stop.reason}" if requested else "")
        if _FAILED in kinds:
            rank = kinds.index(_FAILED)
            self.is_told = True
            raise PeerFailed(f"rank {rank}: {texts[rank]}")
        for text in filter(None, texts):
            code, _, reason = text.partition(" ")
            stop.adopt(reason, int(code))
            return True
        return False

    def leave(self) -> None:
        """Wait for the others before the end: the launcher kills all processes once one has ended with an error."""
        if self.size > 1 and not self.is_broken:
            try:
                self._exchange(_FINE, "")
            except GroupError:
                self.is_broken = True

    def speaks(self, error: Exception) -> bool:
        """Return whether this process prints the error: it is the lowest rank that still can."""
        if not isinstance(error, PeerLost):
            return self.rank == 0 or not self.is_told
        if any(self._peers.is_here(rank) and self._peers.is_alive(rank) for rank in range(self.rank)):
            time.sleep(1)  # until that process has checked which others are alive
            return False
        if self.rank > 0 and not self._peers.is_here(0):
            time.sleep(3)  # if another process has printed it, the launcher ends this one now
        return True

    def print_error(self, error: Exception, script: str) -> None:
        """Print the error with its notes, in the one process that `speaks`."""
        if self.speaks(error):
            say("\n".join([f"{script}: {error}", *getattr(error, "__notes__", [])]), sys.stderr)

    def gather_texts(self, text: str) -> list[str]:
        """Return the texts of all processes, by rank."""
        if self.size == 1:
            return [text]
        content = text.encode()
        kinds, lengths = self._exchange(_FINE, str(len(content)))
        if _FAILED in kinds or _STOPPED in kinds:
            rank = max(range(self.size), key=kinds.__getitem__)
            self.is_told = kinds[rank] == _FAILED
            raise PeerFailed(f"rank {rank}: {lengths[rank]}") if self.is_told else _AgreedStop
        width = max(map(int, lengths))
        padded = np.frombuffer(content.ljust(width + 1), np.uint8)
        rows = self._evaluate(self.gather(mx.array(padded)[None]), "the others' results")
        return [bytes(row[: int(n)]).decode() for row, n in zip(rows, lengths, strict=True)]

    def share_json(self, value: Any) -> Any:
        """Return rank 0's JSON-able value in all processes."""
        return value if self.size == 1 else json.loads(self.gather_texts(json.dumps(value) if self.writes else "")[0])

    def require_same(self, what: str, text: str) -> None:
        """Raise ValueError unless `text` is the same in all processes."""
        texts = self.gather_texts(text)
        if different := [rank for rank, other in enumerate(texts) if other != texts[0]]:
            raise ValueError(
                f"{what} of rank {', '.join(map(str, different))} differs from that of rank 0: "
                f"{texts[different[0]][:300]} instead of {texts[0][:300]}; give all processes the same files"
            )

    def deal(self, items: Sequence[Any]) -> Iterator[Any]:
        """Yield this process' share of the items, every size-th; all processes call `agree` before each."""
        for start in range(0, len(items), self.size):
            if self.size > 1:
                self.agree()
            if start + self.rank < len(items):
                yield items[start + self.rank]

    def undeal(self, rows: Sequence[Any]) -> list[Any]:
        """Return all processes' rows, one for each item that `deal` gave them, in the order of the items."""
        if self.size == 1:
            return list(rows)
        shares = [json.loads(text) for text in self.gather_texts(json.dumps(np.asarray(rows).tolist()))]
        longest = max(map(len, shares))
        return [share[i] for i in range(longest) for share in shares if i < len(share)]

    def gather(self, x: mx.array) -> mx.array:
        """Join (n, ...) of all processes to (n * size, ...), by rank.

        The gradient of a function of the result is, in each process, that through its own part. All processes compute
        one loss; `sum_gradients` adds up their gradients.
        """
        return x if self.size == 1 else mx.distributed.all_gather(x, group=self._communicator)

    @cached_property
    def gather_for_all(self) -> Any:
        """Do as `gather`, for results that each process uses differently: the gradients of all flow back."""

        @mx.custom_function
        def gather(x: mx.array) -> mx.array:
            return self.gather(x)

        @gather.vjp
        def gradient(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            total = mx.distributed.all_sum(cotangent, group=self._communicator)
            n = x.shape[0]
            return total[self.rank * n : (self.rank + 1) * n]

        return gather

    def sum_gradients(self, gradients: Any, statistics: Mapping[str, mx.array]) -> tuple[Any, dict[str, mx.array]]:
        """Return the sum of the processes' gradients and the mean of their statistics, in few large messages."""
        if self.size == 1:
            return gradients, dict(statistics)
        trees = {"gradients": gradients, "statistics": dict(statistics)}
        means = nn.average_gradients(trees, self._communicator)
        total = [(name, g * self.size) for name, g in tree_flatten(means.get("gradients", {}))]
        return tree_unflatten(total) if total else {}, means.get("statistics", {})

    def mean(self, numbers: Any) -> Any:
        """Return the mean over the processes of a tree of scalars."""
        if self.size == 1:
            return numbers
        names, values = zip(*tree_flatten(numbers), strict=True)
        means = self.gather(mx.stack(list(values))[None]).mean(0)
        return tree_unflatten([(name, means[i]) for i, name in enumerate(names)])

    def broadcast(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Return rank 0's arrays in all processes; all pass arrays of the same names, shapes and dtypes."""
        if self.size == 1:
            return dict(arrays)
        sent = {name: a if self.rank == 0 else mx.zeros_like(a) for name, a in sorted(arrays.items())}
        received = {name: mx.distributed.all_sum(a, group=self._communicator) for name, a in sent.items()}
        with self.waiting("rank 0's weights"):
            mx.eval(received)
        return received

    def seed_step(self, seed: int, step: int) -> None:
        """Seed this process' random numbers for the step from seed, step and rank.

        With equal numbers every process would drop the same channels. A process that is alone keeps its sequence.
        """
        if self.size > 1:
            high, low = np.random.SeedSequence([seed, step, self.rank]).generate_state(2).tolist()
            mx.random.seed(high << 32 | low)

    @contextmanager
    def watchdog(self, timeout_seconds: float) -> Iterator[None]:
        """End the process, with a message, if it waits for the others longer than this within the context."""
        self._timeout = timeout_seconds
        ended = threading.Event()
        if self.size > 1:
            threading.Thread(target=self._watch, args=(ended,), daemon=True).start()
        try:
            yield
        finally:
            self._timeout = None
            ended.set()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Mark a wait for the other processes; an error within leaves them waiting, and breaks the group."""
        if self.size == 1:
            yield
            return
        began = time.monotonic()
        self._waiting = began, what
        try:
            yield
        except Exception as error:
            self.is_broken = True
            if "connection to a peer" not in str(error):
                raise
            if self._timeout is not None and time.monotonic() - began >= self._timeout:
                os._exit(STALLED)  # another process' watchdog was first, and printed the message
            raise PeerLost(f"{self._describe_loss()} (noticed waiting for {what})") from None
        finally:
            self._waiting = None

    def _watch(self, ended: threading.Event) -> None:
        assert self._timeout is not None
        # The ranks' limits differ, so that only one prints: its end breaks the others' connections.
        limit = self._timeout + 3 * self.rank
        while not ended.wait(min(1.0, limit / 4)):
            waiting = self._waiting
            if waiting is not None and time.monotonic() - waiting[0] > limit:
                text = (
                    f"rank {self.rank} of {self.size}: waited {limit:.0f} s for {waiting[1]} "
                    "(distributed.timeout_seconds); a process hangs, or the connection stalled. The last checkpoint "
                    "is whole: continue with --resume. see docs/distributed.md\n"
                )
                os.write(2, text.encode())
                os._exit(STALLED)

    def _describe_loss(self) -> str:
        if not self._peers.addresses:
            return f"rank {self.rank}: lost the connection to another process during start-up"
        time.sleep(0.3)  # until the system reports an ended process as ended
        others = [rank for rank in range(self.size) if rank != self.rank]
        dead = [f"rank {rank} ({self._peers.addresses[rank]})" for rank in others if not self._peers.is_alive(rank)]
        return f"lost the connection: {', '.join(dead)} ended" if dead else "lost the connection to another process"

    def _exchange(self, kind: int, text: str) -> tuple[list[int], list[str]]:
        """Return the kinds and texts of all processes; long texts are cut."""
        content = text.encode()[: _MESSAGE_BYTES - 1]
        message = np.frombuffer(bytes([kind]) + content.ljust(_MESSAGE_BYTES - 1, b"\0"), np.uint8)
        rows = self._evaluate(self.gather(mx.array(message)[None]), "the other processes")
        texts = [bytes(row[1:]).rstrip(b"\0").decode(errors="ignore") for row in rows]
        return [int(row[0]) for row in rows], texts

    def _evaluate(self, x: mx.array, what: str) -> np.ndarray:
        with self.waiting(what):
            mx.eval(x)
        return np.array(x)


ALONE = Group()


def join_group() -> Group:
    """Return the group in which mlx.launch or another launcher started this process; ALONE without a launcher.

    Raises ValueError where the processes of a group don't find each other, GroupError where one ended meanwhile.
    """
    ranks = [os.environ[name] for name in _RANK_VARIABLES if name in os.environ]
    if not ranks:
        return ALONE
    try:
        communicator = mx.distributed.init()
        if communicator.size() > 1:
            return Group(communicator)
    except (RuntimeError, PeerLost) as error:
        if int(ranks[0]) > 0:
            time.sleep(3)  # the launcher ends this process now, if rank 0 spoke
        text = (
            error if isinstance(error, PeerLost) else f"rank {ranks[0]}: no connection to the other processes ({error})"
        )
        raise GroupError(f"{text}; the launcher's lines say which one ended") from None
    if int(ranks[0]) > 0:
        raise ValueError(
            f"started as rank {ranks[0]}, but MLX found no other process; name the backend that this MLX has: "
            "mlx.launch --backend ring"
        )
    return ALONE


def describe(error: Exception) -> str:
    """Return an error and its notes as text, with its type's name unless it is a user's mistake."""
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    return text if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: {text}"


def set_up_logging(group: Group) -> None:
    """Log everything in rank 0, and in the others warnings with their rank."""
    head = "" if group.size == 1 or group.rank == 0 else f"rank {group.rank}: "
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter(f"%(asctime)s {head}%(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    _log.setLevel(logging.INFO if group.rank == 0 else logging.WARNING)


def running_statistics(parameters: Iterable[tuple[str, mx.array]]) -> dict[str, mx.array]:
    """Return those flat parameters that batch norms measure and no gradient changes."""
    return {name: a for name, a in parameters if name.rpartition(".")[2].startswith("running_")}
