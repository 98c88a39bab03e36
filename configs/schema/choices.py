"""What a config may name, and the sections that follow from it: networks by `model.name`, losses by `loss.name`."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, create_model

from configs.schema.model import ModelConfig, NetworkArgs
from configs.schema.train import LossArgs

Target = Literal["voxels", "class", "classes"]  # a label of each voxel, a class of each case, several of each case


class LossChoice(NamedTuple):
    """A loss: the class of its arguments, and the targets that it takes."""

    args: type[LossArgs]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Choices:
    """What is registered, by name; of each kind the first is the default."""

    networks: Mapping[str, type[NetworkArgs]] = field(default_factory=dict)
    losses: Mapping[str, LossChoice] = field(default_factory=dict)

    def losses_for(self, *targets: Target) -> list[str]:
        """The losses that take all of these targets."""
        return [name for name, loss in self.losses.items() if set(targets) <= set(loss.targets)]


def model_section(networks: Mapping[str, type[NetworkArgs]]) -> tuple[Any, ModelConfig]:
    """Return the type of the `model` section and its default."""
    sections: list[Any] = []
    for args, names in _by_class(networks).items():
        fields: Any = {"name": (Literal[names], names[0]), "args": (args, args())}
        sections.append(create_model(f"{args.__name__.removesuffix('Args')}Config", __base__=ModelConfig, **fields))
    default: ModelConfig = sections[0]()
    return one_of(sections), default


def loss_section(losses: Mapping[str, LossChoice]) -> tuple[Any, LossArgs]:
    """Return the type of the `loss` section and its default."""
    sections: list[Any] = []
    for args, names in _by_class({name: loss.args for name, loss in losses.items()}).items():
        fields: Any = {"name": (Literal[names], names[0])}
        title = f"{args.__name__.removesuffix('Args')}Config"
        sections.append(create_model(title, __base__=args, __doc__=args.__doc__, **fields))
    default: LossArgs = sections[0]()
    return one_of(sections), default


def one_of(sections: list[Any]) -> Any:
    """Return the type of a section that is one of these, told apart by `name`."""
    union = reduce(operator.or_, sections)
    return union if len(sections) == 1 else Annotated[union, Field(discriminator="name")]


def _by_class(named: Mapping[str, type[Any]]) -> dict[type[Any], tuple[str, ...]]:
    """The names that share a class."""
    return {kind: tuple(n for n, k in named.items() if k is kind) for kind in named.values()}
