"""Types shared by all parts of the schema."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are checked when set, nothing is a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Key:
    """What a config key, or all keys of a section, are there for; stands in the key's `Annotated` type.

    What may change on resuming, in evaluate.py, in a sweep, an ensemble, a pack and in fine-tuning follows from it: the
    rules are in `configs.schema.roles`. A key without one has that of its section; the config's own is `Key()`.
    """

    # result: decides the weights; evaluation: how predictions are made and scored; runtime: how fast, on what, what is
    # said meanwhile; place: where things lie.
    role: Literal["result", "evaluation", "runtime", "place"] = "result"
    # data: which cases and labels there are; input: what the network's input is made of.
    about: Literal["data", "input"] | None = None
    may_change_in: tuple[Literal["resume", "evaluate"], ...] = ()  # in spite of its role
    in_sweeps: str = ""  # how a sweep tells its runs apart by the key, which no cell sets then
    packed: bool = True  # false: may hold names of files or cases, or is of no use without such a key


RUNTIME = Key("runtime")
INPUT = Key(about="input")
BUDGET = Key(may_change_in=("resume",))  # how long is trained, and when it is scored

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Triple = tuple[Count, Count, Count]  # (D, H, W)
Range = tuple[float, float]  # drawn from uniformly, low first
