"""The recipes of docs/extending.md, run as they stand there: a section is a test, its blocks are run in their order."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.synthetic.phantoms import write_phantoms
from tests.docs.test_finetune import run

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"
FENCE = re.compile(r"^```(yaml|python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTRODUCTION, *SECTIONS = DOCUMENT.read_text(encoding="utf-8").split("\n## ")
RECIPES = {section.splitlines()[0]: FENCE.findall(section) for section in SECTIONS}
REGISTRIES = {
    "models": "MODELS",
    "engine.training.losses": "LOSSES",
    "engine.metrics.segmentation": "METRICS",
    "data.sampling.intensity_changes": "CHANGES",
    "data.layouts.registry": "SOURCES",
    "data.files.formats.registry": "FORMATS",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a recipe runs, with the config of the introduction and small phantoms; what it registers goes again."""
    registries = [getattr(importlib.import_module(module), name) for module, name in REGISTRIES.items()]
    before = [dict(registry) for registry in registries]
    monkeypatch.chdir(tmp_path)
    write_phantoms(Path("datasets/phantoms"), cases=5, shape=(12, 16, 14))
    ((_, config),) = FENCE.findall(INTRODUCTION)
    Path("mine.yaml").write_text(config, encoding="utf-8")
    yield tmp_path
    for registry, names in zip(registries, before, strict=True):
        registry.clear()
        registry.update(names)


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipe_runs(title: str, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "recipe"}
    for language, block in RECIPES[title]:
        if language == "python":
            exec(compile(block, f"docs/extending.md: {title}", "exec"), names)
        else:
            for command in block.splitlines():
                run(command)
