"""What a config may name, and the sections that follow from it: networks, losses, sources, augmentations."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, create_model

from configs.schema.augment import AugmentConfig, ChangeArgs
from configs.schema.data import DataConfig
from configs.schema.model import ModelConfig, NetworkArgs
from configs.schema.train import LossArgs

T = TypeVar("T", bound=BaseModel)
# A label of each voxel, regions that may overlap, a class of each case, several of each case.
Target = Literal["voxels", "regions", "class", "classes"]


class LossChoice(NamedTuple):
    """A loss: the class of its arguments, and the targets that it takes."""

    args: type[LossArgs]
    targets: tuple[Target, ...]


class SourceChoice(NamedTuple):
    """A layout of files: what its cases have."""

    volumes: bool  # label volumes, in some data sets
    classes: bool
    clips: bool = True  # may be of video
    tells_labels: bool = False  # says itself whether classes may coincide, so that no column of labels is asked for


@dataclass(frozen=True)
class Choices:
    """What is registered, by name; of each kind the first is the default."""

    networks: Mapping[str, type[NetworkArgs]] = field(default_factory=dict)
    losses: Mapping[str, LossChoice] = field(default_factory=dict)
    sources: Mapping[str, SourceChoice] = field(default_factory=dict)
    changes: Mapping[str, type[ChangeArgs]] = field(default_factory=dict)  # of intensity, keys of data.augment

    def losses_for(self, *targets: Target) -> list[str]:
        """Return the losses that take all of these targets."""
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


def data_section(sources: Mapping[str, SourceChoice], changes: Mapping[str, type[ChangeArgs]]) -> type[DataConfig]:
    """Return the class of the `data` section."""
    names, fields = tuple(sources), {name: (args, args()) for name, args in changes.items()}
    augment: Any = _extended(AugmentConfig, fields)
    return _extended(
        DataConfig,
        {
            "source": replaced(DataConfig, "source", Literal[names], names[0]),
            "augment": replaced(DataConfig, "augment", augment, augment()),
        },
    )


def _extended(section: type[T], fields: Any) -> type[T]:
    """Return a class of the same name and description with these fields besides, or instead."""
    made: type[T] = create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)
    return made


def replaced(section: type[BaseModel], key: str, kind: Any, default: Any) -> Any:
    """Return the field of a key with another type and default, and what its declaration says besides."""
    metadata = section.model_fields[key].metadata
    return (Annotated[(kind, *metadata)] if metadata else kind, default)


def one_of(sections: list[Any]) -> Any:
    """Return the type of a section that is one of these, told apart by `name`."""
    union = reduce(operator.or_, sections)
    return union if len(sections) == 1 else Annotated[union, Field(discriminator="name")]


def _by_class(named: Mapping[str, type[Any]]) -> dict[type[Any], tuple[str, ...]]:
    """Return the names that share a class."""
    return {kind: tuple(n for n, k in named.items() if k is kind) for kind in named.values()}
