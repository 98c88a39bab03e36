"""What environment.json says of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from engine.runs import environment
from ops import backend


def test_versions_device_and_command(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "--config", "x.yaml"])
    found = environment.describe_environment()
    assert found["packages"]["mlx"] == mx.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["command"] == ["train.py", "--config", "x.yaml"]
    assert found["device"] in ("cpu", "gpu")
    assert found["operators"] == backend.active()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)


def test_git_revision_and_whether_files_differ_from_it(tmp_path, monkeypatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    assert environment.describe_environment()["git"] is None
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    found = environment.describe_environment()["git"]
    assert len(found["revision"]) == 40
    assert not found["dirty"]
    (tmp_path / "new.py").touch()
    assert environment.describe_environment()["git"] == {"revision": found["revision"], "dirty": True}


def test_no_git_program(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment.describe_environment()["git"] is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_that_of_the_process_on_a_cpu(monkeypatch) -> None:
    monkeypatch.setattr(environment.mx, "default_device", lambda: mx.Device(mx.cpu))
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert environment.peak_memory_gb() == pytest.approx(peak_kib * 1024 / 1e9, rel=0.05)
