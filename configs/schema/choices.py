"""What a config may name, and the sections that follow from it: networks by `model.name`."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from configs.schema.model import ModelConfig, NetworkArgs


@dataclass(frozen=True)
class Choices:
    """What is registered, by name; of each kind the first is the default."""

    networks: Mapping[str, type[NetworkArgs]] = field(default_factory=dict)


def model_section(networks: Mapping[str, type[NetworkArgs]]) -> tuple[Any, ModelConfig]:
    """Return the type of the `model` section and its default."""
    sections: list[Any] = []
    for args, names in _by_class(networks).items():
        fields: Any = {"name": (Literal[names], names[0]), "args": (args, args())}
        sections.append(create_model(f"{args.__name__.removesuffix('Args')}Config", __base__=ModelConfig, **fields))
    default: ModelConfig = sections[0]()
    return one_of(sections), default


def one_of(sections: list[Any]) -> Any:
    """Return the type of a section that is one of these, told apart by `name`."""
    union = reduce(operator.or_, sections)
    return union if len(sections) == 1 else Annotated[union, Field(discriminator="name")]


def _by_class(named: Mapping[str, type[Any]]) -> dict[type[Any], tuple[str, ...]]:
    """The names that share a class."""
    return {kind: tuple(n for n, k in named.items() if k is kind) for kind in named.values()}
