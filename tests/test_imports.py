"""Who may import whom: the layers of the house."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("machine", "configs", "data", "models", "ops", "engine", "studies", "benchmarks")
MAY_IMPORT = {
    "machine": {"machine"},
    "configs": {"configs", "machine"},
    "ops": {"ops", "machine"},
    "data": {"data", "configs", "machine"},
    "models": {"models", "ops", "configs", "machine"},
    "engine": {"engine", "ops", "configs", "machine"},
    "studies": {"studies", "engine", "models", "ops", "configs", "machine"},
}


def _imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; name the package"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_layers_import_only_what_lies_below(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ holds no Python files"
    for file in files:
        ours = _imports(file) & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_data_never_imports_mlx_core() -> None:
    for file in sorted((ROOT / "data").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n == "mlx" or n.startswith(("mlx.core", "mlx.nn")) for n in names), file


def test_git_ignores_no_source_file() -> None:
    found = [str(f.relative_to(ROOT)) for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]
    done = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "--stdin"], input="\n".join(found), text=True, capture_output=True
    )
    if done.returncode == 128:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    assert done.stdout == ""
