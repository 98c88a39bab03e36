"""Who may import whom: the layers of the house."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("machine", "configs", "data", "models", "ops", "engine", "planning", "studies", "benchmarks")

# The longest name that a module begins with tells what it may import besides itself; everything may import `machine`.
ROOMS = ("engine", "ops", "configs")
MAY_IMPORT = {
    "machine": (),
    "configs": (),
    "ops": (),
    "data": ("configs",),
    "models": ("ops", "configs"),
    "engine": ROOMS,
    "engine.check_compatibility": ROOMS,
    "engine.config": (*ROOMS, "models", "data"),
    "engine.convert": (*ROOMS, "models"),
    "engine.evaluate": (*ROOMS, "data", "models"),
    "engine.predict": (*ROOMS, "data", "models"),
    "engine.scoring": (*ROOMS, "data", "models"),
    "engine.train": (*ROOMS, "data", "models"),
    "engine.windows": (*ROOMS, "data", "models"),
    "engine.training.weights": ("engine.distributed", "engine.reports", "engine.runs", "ops", "configs"),
    "planning": ("data", "engine", "configs"),
    "planning.layout": ("data", "engine", "configs"),
    "planning.survey": ("planning.layout", "data", "configs"),
    "planning.report": ("planning.survey",),
    "planning.proposal": ("planning.survey", "data", "engine", "configs"),
    "studies": ("engine", "models", "configs"),
    "studies.sweep": ("studies.case_rows", "engine", "models", "configs"),
    "studies.comparison": ("studies.case_rows", "studies.scores", "engine", "configs"),
}
MEETING = tuple(name for name in MAY_IMPORT if name.startswith("engine.") and name.count(".") == 1)  # not for rooms


def _modules(package: str) -> dict[str, Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ holds no Python files"
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def _imports(file: Path) -> set[str]:
    """The modules that a file imports, names from a package taken for modules of it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; name the package"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package", dict.fromkeys(name.split(".")[0] for name in MAY_IMPORT))
def test_layers_import_only_what_lies_below(package: str) -> None:
    for module, file in _modules(package).items():
        rule = max((name for name in MAY_IMPORT if _is_in(module, name)), key=len)
        allowed = (rule, "machine", *MAY_IMPORT[rule])
        for name in _imports(file):
            if name.split(".")[0] in PACKAGES:
                assert any(_is_in(name, package) for package in allowed), f"{module} imports {name}"
            if package == "engine" and rule == "engine":
                assert not any(_is_in(name, meeting) for meeting in MEETING), f"{module} reaches up to {name}"


def test_no_circle_of_modules() -> None:
    modules = {name: file for package in PACKAGES for name, file in _modules(package).items()}
    imports = {
        name: {found for i in _imports(file) if (found := i if i in modules else i.rpartition(".")[0]) in modules}
        for name, file in modules.items()
    }
    while leaves := [name for name, below in imports.items() if not below - {name}]:
        for leaf in leaves:
            del imports[leaf]
        imports = {name: below - set(leaves) for name, below in imports.items()}
    assert not imports, f"circles among {sorted(imports)}"


def test_files_hold_few_lines() -> None:
    for package in PACKAGES:
        for file in _modules(package).values():
            lines = len(file.read_text(encoding="utf-8").splitlines())
            assert lines <= 400, f"{file.relative_to(ROOT)} has {lines} lines"


def test_rooms_hold_few_files() -> None:
    files = [file for package in PACKAGES for file in _modules(package).values() if file.name != "__init__.py"]
    for room, count in Counter(file.parent for file in files).items():
        assert count <= 12, f"{room.relative_to(ROOT)} has {count} files"


def test_data_never_imports_mlx_core() -> None:
    for file in sorted((ROOT / "data").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n == "mlx" or n.startswith(("mlx.core", "mlx.nn")) for n in names), file


def test_operators_reach_for_their_cpu_form_where_it_runs() -> None:
    """Files outside `ops/cpu` show plain MLX; what is native is imported inside the function that calls it."""
    for file in sorted([*(ROOT / "ops").glob("*.py"), *(ROOT / "ops" / "convolution").glob("*.py")]):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (file.name, node.names[0].name) != ("backend.py", "allocator"):
                assert not _is_in(str(node.module), "ops.cpu"), f"{file}: {ast.unparse(node)}"


def test_git_ignores_no_source_file() -> None:
    found = [str(f.relative_to(ROOT)) for package in PACKAGES for f in sorted((ROOT / package).rglob("*.py"))]
    done = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", "--stdin"], input="\n".join(found), text=True, capture_output=True
    )
    if done.returncode == 128:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    assert done.stdout == ""
