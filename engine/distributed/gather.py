"""Collects the results of several processes in each of them."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from engine.distributed.group import Group

T = TypeVar("T")


def collect(group: Group, found: Sequence[T], order: Mapping[str, int], key: str, types: Sequence[type]) -> list[T]:
    """Return the results of all processes, in the order of the cases.

    found: dataclasses of the given types, which may hold numbers, text, bytes, arrays, lists, tuples and each other.
    order: a case's place by its id; the attribute `key` of a result holds the id.
    """
    if group.size == 1:
        return list(found)
    by_name = {each.__name__: each for each in types}
    texts = group.gather_texts(json.dumps([_encode(each) for each in found]))
    everything = [_decode(each, by_name) for text in texts for each in json.loads(text)]
    return sorted(everything, key=lambda each: order[getattr(each, key)])


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {"is": type(value).__name__, "of": {f.name: _encode(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, np.ndarray):
        raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"is": "array", "of": [value.dtype.str, list(value.shape), raw]}
    if isinstance(value, bytes):
        return {"is": "bytes", "of": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"is": "tuple", "of": [_encode(each) for each in value]}
    if isinstance(value, list):
        return [_encode(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _decode(value: Any, types: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(each, types) for each in value]
    if not isinstance(value, dict):
        return value
    name, content = value["is"], value["of"]
    if name == "array":
        dtype, shape, raw = content
        return np.frombuffer(base64.b64decode(raw), dtype).reshape(shape)
    if name == "bytes":
        return base64.b64decode(content)
    if name == "tuple":
        return tuple(_decode(each, types) for each in content)
    return types[name](**{field: _decode(each, types) for field, each in content.items()})
