"""What the benchmarks' command lines share: options, and rows written to a file."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine.resources import available_threads

PRECISIONS = ("float32", "bfloat16")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the module's docstring as it is, with `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    return parser


def make_timing_parser(description: str | None, rounds: int, warmup: int) -> argparse.ArgumentParser:
    """Return the parser of a comparison with PyTorch, with its numbers of rounds by default."""
    parser = make_parser(description)
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=rounds, help="timed pairs (at least 20 for a number to quote)")
    parser.add_argument("--warmup", type=int, default=warmup)
    parser.add_argument("--threads", type=int, default=available_threads())
    return parser


def call_apart(module: str, function: str, *arguments: Any) -> Any:
    """Return the result of a module's function, called in a process of its own; both it and the arguments are JSON."""
    code = f"import json, sys, {module} as m; print(json.dumps(m.{function}(*json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_rows(file: Path | None, rows: Any) -> None:
    """Write the rows as JSON, where a file is given."""
    if file is not None:
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
