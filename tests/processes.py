"""Several processes of this machine that find each other over MLX's ring, as under `mlx.launch -n`."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(folder: Path, count: int, command: Sequence[str], **variables: str) -> list[subprocess.Popen[str]]:
    """Start `python *command` as ranks 0 to count - 1, on one core each; the host file goes into `folder`."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MLX_HOSTFILE": str(hosts), **variables}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=shared if count == 1 else {**shared, "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 60) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each; those that still run at the end are killed."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def run(folder: Path, count: int, command: Sequence[str], **variables: str) -> list[tuple[int, str, str]]:
    return finish(start(folder, count, command, **variables))


def train(
    folder: Path, count: int, config: Path, *overrides: str, code: str = "", codes: Sequence[int] = ()
) -> list[tuple[int, str, str]]:
    """Run train.py, or `code` in its place, into `folder`; each process must end with its of `codes`, 0 by default."""
    script = ["-c", code] if code else ["train.py"]
    ended = run(folder, count, [*script, "--config", str(config), f"run.dir={folder}", *overrides])
    assert [code for code, _, _ in ended] == list(codes or [0] * count), ended
    return ended


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
