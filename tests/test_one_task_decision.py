"""The task is decided where objects are built; elsewhere nobody compares it, or asks what kind of object came."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "data", "models", "ops", "engine", "planning", "studies", "benchmarks")
SCRIPTS = ("train.py", "evaluate.py", "plan.py")

TASKS = {"segmentation", "classification"}
OBJECTS = {"case", "cases", "input", "model", "network", "prepared", "results", "rows", "survey", "target"}
KINDS = {
    *("LabelledVolumes", "Volumes", "ArchiveVolumes", "Clips"),  # inputs
    *("Target", "Classes", "LabelVolumes"),  # targets
    *("VolumeFacts", "ClipFacts", "CaseResult", "ClassifiedCase"),  # cases
    *("Segmentation", "Classification", "SegmentedRows", "ClassifiedRows", "UNet3d"),
}

# Who builds objects by the task, or takes what users bring: (module, function or class).
DECIDES = {
    ("configs.schema.config", "Config.kind"),
    ("data.layouts.registry", "list_cases"),
    ("data.layouts.registry", "list_images"),
    ("engine.evaluate", "evaluate"),
    ("engine.evaluation.tasks", "room_of"),
    ("planning.proposal.config", "plan_config"),
    ("planning.survey.survey", "take_survey"),
    ("data.dataset", "Dataset._case"),  # of a case, or of its id
    ("models.layers.dropout", "_dropout_paths"),  # of a network that may be a user's own
}


def decisions(source: str) -> Iterator[tuple[str, str]]:
    """Yield (function, code) of each comparison with a task, choice by it, and question for an object's kind."""

    def visit(node: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            place = (*place, node.name)
        if _decides(node):
            yield ".".join(place), ast.unparse(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, place)

    yield from visit(ast.parse(source), ())


def _decides(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(map(_is_task, (node.left, *node.comparators)))
    if isinstance(node, ast.Match):
        return _is_task(node.subject)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Attribute) and _is_task(node.slice)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        asks = node.func.id in ("isinstance", "hasattr") or (node.func.id == "getattr" and len(node.args) == 3)
        return asks and bool(_names(node.args[0]) & OBJECTS or _names(node.args[1]) & KINDS)
    return False


def _is_task(node: ast.expr) -> bool:
    """Whether an expression is a task: config.task, task, tree["task"], tree.get("task"), or one's name."""
    if isinstance(node, ast.Attribute | ast.Name):
        return (node.attr if isinstance(node, ast.Attribute) else node.id) == "task"
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "task"
    if isinstance(node, ast.Call):
        first = node.args[0] if node.args else None
        return isinstance(first, ast.Constant) and first.value == "task"
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_is_task, node.elts))
    return isinstance(node, ast.Constant) and node.value in TASKS


def _names(node: ast.AST) -> set[str]:
    """The names and attributes in an expression, without leading underscores."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return {name.lstrip("_") for name in found | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}}


def found_in_the_tree() -> set[tuple[str, str, str]]:
    files = [ROOT / name for name in SCRIPTS]
    files += [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {
        (".".join(file.relative_to(ROOT).with_suffix("").parts), *decision)
        for file in files
        for decision in decisions(file.read_text(encoding="utf-8"))
    }


def test_the_task_is_decided_where_objects_are_built() -> None:
    found = found_in_the_tree()
    elsewhere = [": ".join(decision) for decision in sorted(found) if decision[:2] not in DECIDES]
    assert not elsewhere, "\n".join(elsewhere)
    assert {decision[:2] for decision in found} == DECIDES, "a place in DECIDES decides nothing any more"


@pytest.mark.parametrize(
    "code",
    [
        'config.task == "classification"',
        "config.task != plan.task",
        'task in ("segmentation",)',
        '"segmentation" == name',
        'tree.get("task") == name',
        'tree["task"] == name',
        "{}[config.task]",
        "match config.task:\n  case 'segmentation': pass",
        "isinstance(self._target, Classes)",
        "isinstance(found, Clips | Volumes)",
        "isinstance(case.label, tuple)",
        'hasattr(job.model, "features")',
        'getattr(model, "features", None)',
    ],
)
def test_a_decision_is_found(code: str) -> None:
    assert [place for place, _ in decisions(f"class A:\n def f():\n  {code.replace(chr(10), chr(10) + '  ')}")] == [
        "A.f"
    ]


@pytest.mark.parametrize(
    "code",
    [
        'Literal["segmentation"]',
        'Literal["segmentation", "classification"]',
        '{"task": config.task}',
        "isinstance(error, OSError)",
        "config.kind.predicted(config)",
    ],
)
def test_what_decides_nothing_is_left_alone(code: str) -> None:
    assert not list(decisions(code))
