"""Surveys and plans as tests take them: in one thread, and whatever the device."""

from pathlib import Path

import pytest

import plan
from configs import Config
from engine.config import load_config
from planning.layout.recognise import read_settings
from planning.survey.survey import Survey, take_survey


def survey(path: Path, *overrides: str) -> Survey:
    return take_survey(read_settings(path, overrides), threads=1)


def findings(path: Path, *overrides: str) -> list[str]:
    return [str(finding) for finding in survey(path, *overrides).findings]


def planned(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    """The planned config's file beside the data."""
    capsys.readouterr()
    memory_gb = () if "--memory" in arguments else ("--memory", "4")  # the same network whatever the device
    assert plan.main([str(path), "--threads", "1", *memory_gb, *arguments]) == 0
    file = path.parent / f"{path.stem}{len(arguments)}.yaml"
    file.write_text(capsys.readouterr().out)
    return file


def config_of(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Config:
    return load_config(planned(path, capsys, *arguments))


def why(file: Path, key: str) -> str:
    """The comment above a key."""
    lines = file.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    return lines[number - 1].strip()
