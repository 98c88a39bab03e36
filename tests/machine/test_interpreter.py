"""What a Python that cannot run the project is told."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from machine import interpreter

ROOT = Path(interpreter.__file__).parent.parent
PACKAGES = ("configs", "data", "models", "engine", "planning", "studies", "benchmarks")
STARTS = [
    ["train.py", "--config", "x.yaml"],
    ["evaluate.py", "--run", "x"],
    ["plan.py", "x"],
    ["-m", "planning.inspect", "x", "--html", "y"],
    ["-m", "data.synthetic.phantoms", "x"],
    ["-m", "engine.convert", "x"],
    ["-m", "engine.config"],
    ["-m", "studies.folds", "x"],
    ["-m", "benchmarks.train_step"],
]


def _bare(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Start it with the standard library alone."""
    command = [sys.executable, "-S", "-E", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts and packages, without an environment."""
    folder = tmp_path_factory.mktemp("clone")
    for script in ("train.py", "evaluate.py", "plan.py"):
        shutil.copy(ROOT / script, folder)
    for package in PACKAGES:
        (folder / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "machine", folder / "machine")  # no link: it looks for .venv beside itself
    return folder


@pytest.mark.parametrize("arguments", STARTS, ids=" ".join)
def test_a_start_outside_the_environment_is_answered_in_one_line(clone: Path, arguments: list[str]) -> None:
    (clone / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (clone / ".venv/bin/python").touch()
    done = _bare(arguments, clone)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "has no mlx, numpy, scipy, nibabel, pydantic, yaml: `source .venv/bin/activate` and start again" in line
    assert line.endswith(f", or `.venv/bin/python {' '.join(arguments)}`")


def test_without_an_environment_it_is_to_be_made_first(clone: Path) -> None:
    shutil.rmtree(clone / ".venv", ignore_errors=True)
    done = _bare(["plan.py", "x"], clone)
    assert done.returncode == 2
    assert ": run `make setup`, then `source .venv/bin/activate` and start again, or" in done.stderr


def test_the_environment_itself_half_made(monkeypatch) -> None:
    monkeypatch.setattr(interpreter.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    line = interpreter.why_wrong()
    assert line is not None
    assert line.endswith("has no mlx, numpy, scipy, nibabel, pydantic, yaml: run `make setup`")


def test_the_scripts_and_packages_parse_in_old_pythons() -> None:
    """So that the line is what an old Python says, not SyntaxError."""
    first = ["train.py", "evaluate.py", "plan.py", "machine/__init__.py", "machine/interpreter.py"]
    first += [
        f"{package}/__init__.py"
        for package in ("configs", "data", "models", "engine", "planning", "studies", "benchmarks")
    ]
    for file in first:
        ast.parse((ROOT / file).read_text(encoding="utf-8"), file, feature_version=(3, 8))


def test_an_old_python_is_told_to_start_another(monkeypatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "argv", ["-m", "x"])
    monkeypatch.delattr(sys, "orig_argv")
    line = interpreter.why_wrong()
    assert line is not None
    assert " is older than 3.11: " in line
    assert line.endswith("or `.venv/bin/python -m …`")


def test_this_python_is_fit_and_complete() -> None:
    assert interpreter.why_wrong() is None
    assert interpreter.why_unfit() is None


@pytest.mark.parametrize(
    ("platform", "machine", "system", "reason"),
    [
        ("darwin", "x86_64", "15.1", r"for x86_64: MLX needs Apple silicon and a native \(arm64\) Python, none under"),
        ("darwin", "arm64", "13.6", "on macOS 13.6: MLX needs macOS 14 or later"),
        ("darwin", "arm64", "14.0", None),
        ("win32", "AMD64", "", "on win32: MLX runs on macOS and Linux"),
    ],
)
def test_machines_that_mlx_has_wheels_for(monkeypatch, platform, machine, system, reason) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(interpreter.platform, "machine", lambda: machine)
    monkeypatch.setattr(interpreter.platform, "mac_ver", lambda: (system, ("", "", ""), machine))
    _check(reason)


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (("glibc", "2.31"), "on glibc 2.31: MLX needs glibc 2.35 or later"),
        (("", ""), "on a C library other than glibc: MLX needs glibc 2.35"),
        (("glibc", "2.35"), None),
    ],
)
def test_c_libraries_that_mlx_has_wheels_for(monkeypatch, library, reason) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(interpreter.platform, "libc_ver", lambda: library)
    _check(reason)


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_versions_without_wheels(monkeypatch, version) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    _check("the project needs 3.11, 3.12 or 3.13")


def test_a_debian_python_without_venv(monkeypatch) -> None:
    monkeypatch.setattr(interpreter.importlib.util, "find_spec", lambda name: None)
    _check(r"without venv: apt install python3\.\d+-venv")


def _check(reason: str | None) -> None:
    found = interpreter.why_unfit()
    if reason is None:
        assert found is None
    else:
        assert re.search(reason, found or ""), found
