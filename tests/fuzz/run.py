"""Attacks in processes of their own, which may be killed.

FUZZ_EXAMPLES sets how many of each kind are tried (`make fuzz`: 1000), by seeds from 0 on.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
SECONDS = 60  # that one example may take on a loaded machine
LONG = EXAMPLES > 50


def together(kinds: Collection[str]) -> list[list[str]]:
    """The kinds that share a process: all of them, and in a long run each has its own."""
    return [[kind] for kind in kinds] if LONG else [list(kinds)]


def require_results(module: str, kinds: Sequence[str], good: Collection[str]) -> None:
    """Fail unless what comes of every example is one of the good results."""
    outcomes = attack(module, kinds, 0, EXAMPLES)
    counts = Counter((outcome["kind"], outcome["result"]) for outcome in outcomes)
    print("".join(f"\n{kind:<11} {result:<10} {count}" for (kind, result), count in sorted(counts.items())))
    bad = [outcome for outcome in outcomes if outcome["result"] not in good]
    assert not bad, "\n".join(f"{one['kind']} {one['number']}: {one['result']}: {one['said']}" for one in bad[:20])
    assert len(outcomes) == EXAMPLES * len(kinds)


def attack(module: str, kinds: Sequence[str], first: int, last: int) -> list[dict[str, Any]]:
    """What came of the examples `first` to `last` of each kind; those that end the process are `abort` or `hang`."""
    outcomes = []
    for kind in kinds if LONG else [",".join(kinds)]:
        number = first
        while number < last:
            found, began = _attack_once(module, kind, number, last)
            outcomes += found
            if began is None:
                break
            outcomes.append(began)
            assert LONG, f"python -m {module} {began['kind']} {began['number']} {began['number'] + 1}: {began}"
            number = began["number"] + 1
    return outcomes


def _attack_once(module: str, kind: str, first: int, last: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The outcomes until a process ends, and the example that ended it, if one did."""
    command = [sys.executable, "-m", module, kind, str(first), str(last)]
    outcomes, began, late = [], None, threading.Event()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:

        def kill() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        assert process.stdout is not None
        timer = threading.Timer(SECONDS, kill)
        timer.start()
        for line in process.stdout:
            timer.cancel()
            timer = threading.Timer(SECONDS, kill)
            timer.start()
            facts = json.loads(line)
            if "result" in facts:
                outcomes.append(facts)
            began = None if "result" in facts else facts
        timer.cancel()
    if process.returncode and began is None:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}")
    said = f"the process ended with {process.returncode}"
    return outcomes, None if began is None else {**began, "result": "hang" if late.is_set() else "abort", "said": said}
