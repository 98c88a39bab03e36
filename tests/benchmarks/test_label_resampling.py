"""The table of what labels keep of their volume."""

import sys
from pathlib import Path

import pytest

from benchmarks import label_resampling
from data.synthetic.phantoms import write_phantoms


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_phantoms(tmp_path / "data", 2, 0, (20, 28, 24))
    monkeypatch.setattr(sys, "argv", ["label_resampling", str(tmp_path / "data"), "--cases", "1"])
    assert label_resampling.main() == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("1 cases; volume after / before")
    assert len(lines) == 4 * 3
    methods = {"ours": [], "largest share": [], "ties to foreground": []}
    for line in lines:
        kind = next(name for name in methods if f"mm  {name}" in line)
        methods[kind].append(float(line.split(kind)[1].split()[0]))
    assert min(methods["ours"]) > 0.99
    assert max(methods["ours"]) < 1.01
    assert max(methods["largest share"]) < 1
