"""What `make setup` would do, with programs that are made up."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIT = "exit 0"
SHIM = "echo 'command not found' >&2; exit 127"
UNFIT = "echo 'python3 is Python 3.9.6: too old' >&2; exit 2"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose PATH holds nothing but a few tools."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "tools").mkdir()
    for tool in ("make", "sh", "grep", "head", "cut", "rm", "mkdir", "touch"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool) or pytest.skip(f"needs {tool}"))
    _program(tmp_path, "uname", "echo Linux")
    return tmp_path


def _program(clone: Path, name: str, body: str) -> None:
    file = clone / "tools" / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def _make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    variables["PATH"] = str(clone / "tools")
    return subprocess.run(
        ["make", *arguments], cwd=clone, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_first_python_that_runs_and_fits_is_taken(clone: Path) -> None:
    for name, body in (("python3.13", SHIM), ("python3.12", UNFIT), ("python3.11", FIT), ("python3", FIT)):
        _program(clone, name, body)
    assert "python3.11 -m venv .venv\n" in _make(clone, "-n", "setup").stdout
    assert "/my/python -m venv .venv\n" in _make(clone, "-n", "setup", "PYTHON=/my/python").stdout


def test_where_none_fits_a_line_says_what_to_install(clone: Path) -> None:
    _program(clone, "python3.13", SHIM)
    _program(clone, "python3", UNFIT)
    done = _make(clone, "setup")
    why, line, _ = done.stderr.splitlines()
    assert done.returncode == 2
    assert why == "python3 is Python 3.9.6: too old"
    assert line == (
        "make setup needs Python 3.13, 3.12 or 3.11: on macOS 'brew install python@3.13', on Debian and Ubuntu "
        "'sudo apt install python3 python3-venv'; or name one, 'make setup PYTHON=/path/to/python3.13'"
    )
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("state", ["whole", "begun", "its Python is gone", "new requirements", "too old"])
def test_an_environment_is_made_anew_only_where_it_must(clone: Path, state: str) -> None:
    _program(clone, "python3.13", FIT)
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/.ready").touch()
    _program(clone, "chosen", UNFIT if state == "too old" else FIT)
    (clone / ".venv/bin/python").symlink_to(clone / "tools" / ("gone" if "gone" in state else "chosen"))
    if state == "begun":
        (clone / ".venv/.unfinished").touch()
    if state in ("new requirements", "too old"):
        os.utime(clone / ".venv/.ready", (1, 1))
    done = _make(clone, *(["setup"] if state == "too old" else ["-n", "setup"]))
    assert ("rm -rf .venv" in done.stdout) == (state in ("begun", "its Python is gone"))
    assert ("pip install" in done.stdout) == (state not in ("whole", "too old"))
    if state == "too old":
        assert done.returncode == 2
        assert "remove .venv, then run make setup again" in done.stderr


@pytest.mark.parametrize(
    ("system", "driver", "extras"),
    [
        ("Linux", "580.65.06", "test,formats,cuda13"),
        ("Linux", "550.54.14", "test,formats,cuda12"),
        ("Linux", "535.104", "test,formats,cpu"),
        ("Linux", None, "test,formats,cpu"),
        ("Darwin", None, "test,formats"),
    ],
)
def test_system_and_driver_decide_the_backend(clone: Path, system: str, driver: str | None, extras: str) -> None:
    _program(clone, "python3.13", FIT)
    _program(clone, "uname", f"echo {system}")
    if driver:
        _program(clone, "nvidia-smi", f"echo {driver}; echo {driver}")
    assert f'pip-version-check -e ".[{extras}]"' in _make(clone, "-n", "setup").stdout
