"""Links, paths and commands in README, docs and the heads of configs lead to something that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = ROOT / "CHANGELOG.md"  # which names commands that were
PACKAGES = ("benchmarks", "configs", "data", "engine", "machine", "models", "ops", "planning", "studies", "tests")
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in [*PAGES, *CONFIGS] if page != HISTORY], ids=name)
def test_commands_name_what_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([a-z_0-9.]+)", text):
        if module not in ("pytest", "pip"):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for script in re.findall(r"python ([a-z_0-9/]+\.py)", text):
        assert (ROOT / script).exists(), script
    for config in re.findall(r"--config (configs/[a-z_0-9/]+\.yaml)", text):
        assert (ROOT / config).exists() or config == "configs/mine.yaml", config


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md"])
def test_named_files_exist(page: str) -> None:
    """A file without a folder is in one of those that its section names before it."""
    for section in (ROOT / page).read_text(encoding="utf-8").split("\n## "):
        folders = [ROOT]
        for found in re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", section):
            path = next((folder / found for folder in folders if (folder / found).exists()), None)
            assert path is not None, f"{page}: {found}"
            folders.append(path if path.is_dir() else path.parent)


SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_files_named_in_pages_and_comments_exist() -> None:
    """docs/extending.md is left out: its recipes make files."""
    for page in [
        page for page in [*PAGES, *CONFIGS, *SOURCES] if page not in (HISTORY, ROOT / "docs" / "extending.md")
    ]:
        text = page.read_text(encoding="utf-8")
        for found in re.findall(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)})/[a-z_0-9/]+\.py\b", text):
            assert (ROOT / found).exists() or "github.com" in text, f"{name(page)}: {found}"
