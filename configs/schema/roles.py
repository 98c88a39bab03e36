"""What follows from the keys' roles: which may change when, which a pack holds. docs/configs.md has it in a table."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from configs.schema.types import Key

Rule = Callable[[Key], bool]


def may_change_on_resume(key: Key) -> bool:
    """Return whether the key leaves what is trained as it is or, as the budget does, only how long."""
    return key.role != "result" or "resume" in key.may_change_in


def may_change_in_evaluation(key: Key) -> bool:
    """Return whether evaluate.py may set the key: training has not settled it, nor does --run."""
    settled = key.role == "result" and key.about != "data" and "evaluate" not in key.may_change_in
    return not settled and not key.in_sweeps


def may_change_in_a_sweep(key: Key) -> bool:
    """Return whether the key may differ when a sweep goes on: no score depends on it."""
    return key.role in ("runtime", "place")


def may_differ_between_runs(key: Key) -> bool:
    """Return whether the runs of a sweep may differ in the key: it says which run it is, or no score depends on it."""
    return may_change_in_a_sweep(key) or tells_runs_apart(key)


def tells_runs_apart(key: Key) -> bool:
    """Return whether the sweep sets the key for each run, and its cells do not."""
    return bool(key.in_sweeps)


def is_packed(key: Key) -> bool:
    """Return whether a pack tells the key: prediction needs it, or it says how the network was trained."""
    return key.role in ("result", "evaluation") and key.packed


def says_which_data(key: Key) -> bool:
    """Return whether the key says which cases there are, and their labels."""
    return key.about == "data"


def shapes_the_input(key: Key) -> bool:
    """Return whether the key decides what the network's input is made of, which its weights are trained on."""
    return key.about == "input"


@cache
def keys_of(model: type[BaseModel]) -> dict[str, Key]:
    """Return {dotted path: Key} of all keys of a config or section.

    A choice between sections, such as `model`, is one key, and so is a section that declares none.
    """
    return dict(_walk(model, Key(), ""))


def _walk(model: type[BaseModel], inherited: Key, place: str) -> Iterator[tuple[str, Key]]:
    for name, field in model.model_fields.items():
        path = place + (field.alias or name)
        key = next((found for found in field.metadata if isinstance(found, Key)), inherited)
        types = get_args(field.annotation) or (field.annotation,)
        sections = [found for found in types if isinstance(found, type) and issubclass(found, BaseModel)]
        if len(sections) == 1 and sections[0].model_fields:
            yield from _walk(sections[0], key, f"{path}.")
        else:
            yield path, key


@cache
def keys_where(model: type[BaseModel], rule: Rule) -> dict[str, Key]:
    """Return {dotted path: Key} of the keys that the rule holds for.

    A section that it holds for throughout stands for its keys, with the Key of its first one.
    """
    keys = keys_of(model)
    refused = [path for path, key in keys.items() if not rule(key)]
    found: dict[str, Key] = {}
    for path, key in keys.items():
        if rule(key):
            parts = path.split(".")
            above = [".".join(parts[: i + 1]) for i in range(len(parts))]
            whole = next(part for part in above if not any(is_within(other, (part,)) for other in refused))
            found.setdefault(whole, key)
    return found


def is_within(path: str, keys: Iterable[str]) -> bool:
    """Return whether a dotted path is one of the keys or sections, or lies below one."""
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def pick(tree: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return what a config's tree holds at the keys and below them; what it does not hold is left out."""
    found: dict[str, Any] = {}
    for path in keys:
        *sections, last = path.split(".")
        source: Any = tree
        for name in sections:
            source = source.get(name) if isinstance(source, dict) else None
        if isinstance(source, dict) and last in source:
            target = found
            for name in sections:
                target = target.setdefault(name, {})
            target[last] = source[last]
    return found
