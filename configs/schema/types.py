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
    may_change_in: tuple[Literal["resume", "evaluate"], ...] = ()  # although its role says no
    in_sweeps: str = ""  # how a sweep tells its runs apart by the key, which no cell sets then
    packed: bool = True  # false: may hold names of files or cases, or is of no use without such a key


RUNTIME = Key("runtime")
INPUT = Key(about="input")
BUDGET = Key(may_change_in=("resume",))  # how long is trained, and when it is scored

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Gigabytes = Annotated[float, Field(gt=0, le=1e6)]
# Whole numbers end far beyond use, and where one of them alone would take hours or all memory. What several take
# together is estimated in `engine.runs.memory_estimate`.
Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Batch = Annotated[int, Field(ge=1, le=2**16)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[int, Field(ge=1, le=2**14)]  # channels of a layer
Side = Annotated[int, Field(ge=1, le=2**14)]  # voxels, pixels or frames along an axis
Triple = tuple[Side, Side, Side]  # (D, H, W)
Few = Annotated[int, Field(ge=1, le=64)]  # a kernel's side, a stride, a dilation
FewTriple = tuple[Few, Few, Few]  # (D, H, W)
Spacing = Annotated[float, Field(ge=1e-4, le=1e4)]  # mm; 1e-4 is a light microscope's finest
Label = Annotated[int, Field(ge=-(2**15), lt=2**15)]
Range = tuple[float, float]  # drawn from uniformly, low first
