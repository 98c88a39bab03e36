"""YAML file -> base files -> overrides -> checked `Config`."""

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.plain_yaml import LARGEST_WHOLE_NUMBER, MAX_DEPTH, read_yaml, read_yaml_file
from configs.schema.config import Config

Overrides = Sequence[str] | Mapping[str, Any]
"""Keys to set: "key.path=value" each, whose value is YAML, or {"key.path": value}."""


class ConfigError(ValueError):
    """A mistake in a config; the message names the file, the dotted path and the fix."""


_LONGEST_VALUE = 200  # characters, in a message
_MOST_PROBLEMS = 20  # that a message lists
_PATTERN = re.compile(r"\{[^{},]+\}\S")  # {id}.mp4 begins as a mapping does, but is a text
# In an override a value that begins with * is a pattern, as there is nothing that an alias could stand for.
_STARS = re.compile(r"(^\s*|[\[,]\s*)(\*[^,\]\s']*)(?=\s*(?:[,\]]|$))")
_config_class: Callable[[], type[Config]] | None = None


def bind(config_class: Callable[[], type[Config]]) -> None:
    """Let configs be checked against config_class(), which knows what is registered; `engine.config` does it."""
    global _config_class
    _config_class = config_class


def bound() -> type[Config]:
    """Return the class that configs are checked against."""
    assert _config_class is not None, "import engine.config: it tells which networks, losses and sources there are"
    return _config_class()


def load_config(path: str | Path, overrides: Overrides = ()) -> Config:
    """Return the config of `path`, its `base:` parents merged below it and the overrides on top.

    Raises ConfigError for a missing or broken file, an unknown key or a value that doesn't fit.
    """
    path = Path(path)
    tree = apply_overrides(read_tree(path), overrides)
    return check_config(tree, where=str(path))


def check_config(tree: dict[str, Any], where: str) -> Config:
    """Return the checked config of a plain tree; `where` opens the message of a ConfigError."""
    try:
        return bound().model_validate(tree)
    except ValidationError as error:
        lines = [_shortened(_explain(e)) for e in error.errors()[:_MOST_PROBLEMS]]
        more = error.error_count() - len(lines)
        lines += [f"and {more:,} more"] if more else []
        raise ConfigError(
            "\n".join([f"{where}: {error.error_count()} problem(s)", *(f"  {x}" for x in lines)])
        ) from None


# Keys of a run's resolved config that were renamed since version 0.1.0. The values stay: the first two were voxels, of
# about 1 mm in what was trained on, and prediction does not read them.
RENAMED = {
    "data.augment.elastic.displacement_voxels": "displacement_mm",
    "data.augment.elastic.control_spacing_voxels": "control_spacing_mm",
}


def rename_old_keys(tree: Any) -> Any:
    """Return the resolved config of a run of an earlier version with the keys of this one."""
    for path, new in RENAMED.items():
        *sections, old = path.split(".")
        section = tree
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and old in section:
            section[new] = section.pop(old)
    return tree


def apply_overrides(tree: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return `tree` with each `dotted.path=value` set; values of texts are YAML (`[1, 2]`, `null`, `3e-4`)."""
    for key, value in overrides.items() if isinstance(overrides, Mapping) else _read_overrides(overrides):
        if key.count(".") >= MAX_DEPTH:
            raise ConfigError(f"override {_shortened(key, 40)}: no config key has so many parts")
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def _read_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: expected key.path=value, e.g. optim.learning_rate=3e-4")
        try:
            yield key, read_yaml(_STARS.sub(r"\1'\2'", text))
        except yaml.YAMLError as error:
            if _PATTERN.match(text):
                yield key, text
                continue
            raise ConfigError(f"override {override!r}: the value is not YAML ({error})") from None


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it: mappings key by key, anything else replaced whole.

    Where both name a `model` of a different `name`, its `args` are not mixed.
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            other_kind = "name" in value and "name" in old and value["name"] != old["name"]
            result[key] = value if other_kind and "args" in old else merge(old, value)
        else:
            result[key] = value
    return result


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a YAML file, its `base:` parents merged below it, unchecked; `seen` are files that led here.

    Raises ConfigError for a missing or broken file.
    """
    if path.resolve() in seen:
        raise ConfigError(f"{path}: base files form a circle: {' -> '.join(map(str, [*seen, path.resolve()]))}")
    named = f"{path}, the base of {seen[-1]}" if seen else str(path)
    try:
        tree = read_yaml_file(path)
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("[!.]*.yaml")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, there, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f"; found {', '.join(there)}" if there else ""
        raise ConfigError(f"{named}: no such config file{hint}") from None
    except OSError as error:
        raise ConfigError(f"{named}: cannot be read as a YAML file ({error})") from None
    except yaml.YAMLError as error:
        hint = "; quote a pattern: '*_img.nii.gz'" if re.search("undefined alias|scanning an alias", str(error)) else ""
        raise ConfigError(f"{path}: not valid YAML ({error}){hint}") from None
    if tree is None:
        raise ConfigError(f"{path}: an empty file; write a config (python plan.py PATH > FILE makes one)")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of config keys, got {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected one file name, got {base!r}")
    return merge(read_tree(path.parent / base, (*seen, path.resolve())), tree)


def _explain(error: Any) -> str:
    """One line for one pydantic error: dotted path, what is wrong, the nearest key where one was misspelt."""
    location = tuple(part for part in error["loc"] if not _is_tag(part, error["loc"]))
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    if error["type"] == "extra_forbidden":
        known = _keys_at(bound(), error["loc"][:-1])
        near = _nearest(str(location[-1]), known)
        return f"{path}: unknown key; " + (f"did you mean {near}?" if near else f"known: {', '.join(known)}")
    if error["type"] == "missing":
        return f"{path}: required, but not set"
    if error["type"] == "union_tag_invalid":
        tag, known = error["ctx"]["tag"], re.findall(r"'([^']*)'", error["ctx"]["expected_tags"])
        near = _nearest(tag, known)
        return f"{path}.name: unknown, {tag!r}; " + (f"did you mean {near}?" if near else f"known: {', '.join(known)}")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]}; got {_shown(error['input'])}"


def _shown(value: Any) -> str:
    """Return the value on one short line."""
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE_NUMBER:  # Python writes out no more than 4,300 digits
        return f"a whole number of {value.bit_length()} bits"
    return _shortened(repr(value), _LONGEST_VALUE)


def _shortened(text: str, length: int = 1000) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _nearest(key: str, known: list[str]) -> str | None:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    abbreviated = [k for k in known if "".join(word[0] for word in k.split("_")) == key]  # lr: learning_rate
    return next(iter(close + abbreviated), None)


def _is_tag(part: str | int, location: tuple[str | int, ...]) -> bool:
    """Return whether `part` is the tag that pydantic adds for a union's member (model.unet3d.args -> model.args)."""
    choices = bound().choices
    tags = {"model": choices.networks, "loss": choices.losses}.get(str(location[0]), {})
    return len(location) > 1 and location[1] == part and part in tags


def _keys_at(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that are known at `location` of the schema."""
    models = [model]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [m for m in models if part in _tags(m)]
        inner = [m for one in models if part in one.model_fields for m in _models(one.model_fields[part].annotation)]
        models = tagged or inner or models
    return sorted({field.alias or key for one in models for key, field in one.model_fields.items()})


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of `name` that choose this member of a union."""
    return typing.get_args(model.model_fields["name"].annotation) if "name" in model.model_fields else ()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, tuple):
        return [m for a in typing.get_args(annotation) for m in _models(a)]
    return []
