"""Ctrl-C in every command: one line and exit code 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from machine import interrupt

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(["train.py"], ["evaluate.py"], ["plan.py"], ["-m", "planning.inspect"], ["-m", "studies.folds"]),
    *(["-m", "engine.convert"], ["-m", "engine.config"]),
    *(["-m", "data.synthetic.phantoms"], ["-m", "data.synthetic.moving_shapes"], ["-m", "benchmarks.operators"]),
]


# Python runs it before the command: while the named module is imported, an interrupt comes
SITE = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            {interrupt}
sys.meta_path.insert(0, Interrupt())
"""
DIRECT = "os.kill(os.getpid(), signal.SIGINT)"
IN_A_FINALIZER = "type('Dying', (), {'__del__': lambda self: os.kill(os.getpid(), signal.SIGINT)})()"


def _run(folder: Path, command: list[str], module: str, interrupt: str = DIRECT) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(SITE.format(module=module, interrupt=interrupt))
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_an_interrupt_while_packages_are_imported(tmp_path, command: list[str]) -> None:
    arguments = {"train.py": ["--config", "configs/demo_unet.yaml"], "evaluate.py": ["--run", "x"]}
    done = _run(tmp_path, [*command, *arguments.get(command[-1], ["x", "y"])], "numpy")
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


@pytest.mark.slow
def test_an_interrupt_within_a_callback_is_not_lost(tmp_path) -> None:
    done = _run(tmp_path, ["plan.py", "x"], "numpy", IN_A_FINALIZER)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


def test_other_errors_keep_their_traceback(capsys) -> None:
    try:
        raise KeyError("ours")
    except KeyError as error:
        interrupt._end_uncaught(type(error), error, error.__traceback__)
    assert "KeyError: 'ours'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (ROOT / "train.py", True),
        (ROOT / "studies" / "folds.py", True),
        (ROOT / ".venv" / "bin" / "pytest", False),
        (ROOT / "tests" / "some.py", False),
        (ROOT.parent / "mine.py", False),
        (None, False),
    ],
)
def test_notebooks_and_scripts_of_users_keep_their_way(monkeypatch, file: Path | None, expected: bool) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None if file is None else str(file))
    assert interrupt._is_command() is expected
