"""The commands of docs/finetune.md, run as they stand there."""

import contextlib
import csv
import importlib
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import pytest

from ops import backend
from tests.conftest import leave_out_figures

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "finetune.md"
MAY_FIND = {"planning.inspect": (0, 1)}  # generated volumes are of mixed orientations, which is worth checking


def commands(text: str) -> list[str]:
    """The lines of all blocks marked sh."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def find_main(words: list[str]) -> tuple[str, Callable[[list[str]], int], list[str]]:
    """The module of `python FILE.py …` or `python -m MODULE …`, its `main` and the arguments."""
    assert words[0] == "python", f"only python is run here, not {words[0]}"
    name, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
    return name, importlib.import_module(name).main, arguments


def run(command: str) -> None:
    words = shlex.split(command, comments=True)
    target = None
    if ">" in words:
        words, (_, target) = words[:-2], words[-2:]
    name, main, arguments = find_main(words)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(arguments)
    assert code in MAY_FIND.get(name, (0,)), command
    if target is not None:
        Path(target).write_text(printed.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where the commands were run."""
    path = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(backend, "_form", backend._form)
        leave_out_figures(patch)
        for command in commands(DOCUMENT.read_text(encoding="utf-8")):
            run(command)
        yield path


def test_there_are_commands_of_every_step() -> None:
    found = commands(DOCUMENT.read_text(encoding="utf-8"))
    for part in ("planning.inspect", "plan.py", "--dry-run", "--from", "freeze=", "--export", "--images", "init.from="):
        assert any(part in command for command in found), part


def test_volumes_are_planned_trained_packed_and_predicted(folder: Path) -> None:
    assert (folder / "phantoms.html").exists()
    assert "datasets/phantoms" in (folder / "first.yaml").read_text()
    table = json.loads((folder / "runs" / "few" / "init.json").read_text())
    assert {row["what"] for row in table["tensors"]} == {"loaded"}
    predictions = folder / "few" / "eval" / "images_imagesTr" / "predictions"
    assert len(list(predictions.iterdir())) == 8
    image = nibabel.load(folder / "datasets" / "phantoms" / "imagesTr" / "phantom_000.nii.gz")
    assert nibabel.load(predictions / "phantom_000.nii.gz").shape == image.shape
    metrics = json.loads((folder / "few" / "eval" / "all" / "metrics.json").read_text())
    assert metrics["num_cases"] == 8
    again = json.loads((folder / "runs" / "again" / "init.json").read_text())
    assert again["file"] == "few.zip"


def test_clips_are_planned_trained_packed_and_predicted(folder: Path) -> None:
    with (folder / "shapes" / "eval" / "images_left" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert {"p(down)", "p(left)", "p(right)", "p(up)"} < set(rows[0])


def test_nothing_is_written_elsewhere(folder: Path) -> None:
    there = {path.name for path in folder.iterdir()}
    configs, packs = {"first.yaml", "few.yaml", "shapes.yaml"}, {"few.zip", "few", "shapes.zip", "shapes"}
    assert there == {"datasets", "runs", "phantoms.html"} | configs | packs
