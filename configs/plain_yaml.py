"""YAML from people and from strangers, read within limits: configs, sweeps, overrides, a run's and a pack's config."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
MAX_EVENTS = 200_000  # values, keys, and begins and ends of lists and mappings; an alias counts as what it stands for
MAX_DEPTH = 64
LARGEST_WHOLE_NUMBER = 2**63 - 1
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}

# libyaml's, where PyYAML has it: Python's own takes minutes over some texts.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):
    """Plain values alone, every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (name := (key.tag, key.value)) in seen:
                    raise yaml.YAMLError(f"{_place(key.start_mark)}: the key {key.value!r} is given twice; keep one")
                seen.add(name)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int:
        text = f"{node.value[:20]}..." if len(node.value) > 20 else node.value
        try:
            value: int = self.construct_yaml_int(node)
        except ValueError:
            raise yaml.YAMLError(f"{_place(node.start_mark)}: {text} is no whole number that can be read") from None
        if abs(value) > LARGEST_WHOLE_NUMBER:
            raise yaml.YAMLError(f"{_place(node.start_mark)}: {text} is beyond the largest whole number, 2^63 - 1")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def read_yaml(content: bytes | str) -> Any:
    """Return the plain values of one YAML document: UTF-8, with a byte order mark or without.

    Raises yaml.YAMLError, in one line with the place, for what is no YAML or no plain values, and for what is absurdly
    large or deep, written out or by aliases, before it is built.
    """
    if len(content) > MAX_BYTES:
        raise yaml.YAMLError(f"it has {len(content):,} bytes; a config has at most {MAX_BYTES:,}")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    try:
        _require_moderate(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise yaml.YAMLError(_one_line(f"{_place(mark)}: {what}" if mark else what)) from None
    except yaml.YAMLError as error:
        raise yaml.YAMLError(_one_line(error)) from None
    except (ValueError, OverflowError, RecursionError) as error:  # a date that there is not
        raise yaml.YAMLError(_one_line(error)) from None


def read_yaml_file(path: Path) -> Any:
    """Return what `read_yaml` does of a file. Raises OSError too."""
    with path.open("rb") as file:
        return read_yaml(file.read(MAX_BYTES + 1))


def _require_moderate(text: str) -> None:
    """Look at the events before anything is built of them."""
    total, documents = 0, 0
    begun: list[tuple[str | None, int]] = []  # (anchor, events before it) of each open list or mapping
    sizes: dict[str, int] = {}  # events that an alias of the anchor stands for
    for event in yaml.parse(text, _Parser):
        place = _place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if documents > 1:
            raise yaml.YAMLError(f"{place}: a second document begins (---); a config is one")
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in begun):
                raise yaml.YAMLError(f"{place}: the alias *{event.anchor} lies within what it stands for; write it out")
            total += sizes.get(str(event.anchor), 1)
        else:
            total += 1
        tag = getattr(event, "tag", None)  # where it is written out
        if tag is not None and tag not in _PLAIN_TAGS:
            raise yaml.YAMLError(f"{place}: the tag {tag!r} is not read; write a plain value")
        if isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, total - 1))
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor:
                sizes[anchor] = total - before
        if len(begun) > MAX_DEPTH:
            raise yaml.YAMLError(f"{place}: lists and mappings lie more than {MAX_DEPTH} deep in each other")
        if total > MAX_EVENTS:
            raise yaml.YAMLError(f"{place}: more than {MAX_EVENTS:,} values, aliases (*name) written out; use fewer")


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _one_line(error: Exception | str) -> str:
    return re.sub(r"\s+", " ", str(error))
