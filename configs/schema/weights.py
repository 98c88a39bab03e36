"""The `init` and `freeze` sections: weights to start from instead of drawn ones, and those that training leaves."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from configs.schema.types import Count, Section


class InitConfig(Section):
    """Weights of a run, of one of its checkpoints, of a .safetensors file or of a pack (.zip).

    Tensors are matched by name and shape, running statistics included. What does not match is an error, unless a
    key here allows it. A run that is resumed goes on from its own checkpoint.
    """

    model_config = ConfigDict(serialize_by_alias=True)  # `from` is a word of Python's own

    source: Path = Field(alias="from")  # runs/NAME, runs/NAME/checkpoints/STEP, weights.safetensors or model.zip
    checkpoint: Literal["best", "last"] = "best"  # of a run
    weights: Literal["ema", "raw"] = "ema"  # of a run or checkpoint; ema where it has one
    # The first convolution for another number of channels: the weights' channels over and over, their mean in each,
    # or as they are in the first ones and 0 in the others. Scaled as engine/training/weights/match.py says.
    # null: as many.
    input: Literal["repeat", "mean", "first"] | None = None
    # The last layers for other classes: drawn anew, or those of classes of the same name taken over. null: the same.
    head: Literal["new", "by_name"] | None = None
    allow_missing: tuple[str, ...] = ()  # patterns (`encoder.*`) of tensors that may stay as drawn
    allow_unused: tuple[str, ...] = ()  # patterns of the weights' tensors that may be left out


class FreezeConfig(Section):
    """Parameters by pattern, of their names as `train.py --dry-run` prints them: `encoder.*`, `*.norm.*`.

    A list of patterns, or one, alone stands for {patterns: […]}.
    """

    patterns: Annotated[tuple[str, ...], Field(min_length=1)]
    thaw_at_step: Count | None = None  # trained after so many steps; null: never
    # Batch norms among them normalise by their running statistics, as in evaluation, and leave these as they are.
    norm_statistics: bool = True

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_patterns(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        return {"patterns": value} if isinstance(value, list | tuple) else value
