"""The `freeze` section: parameters that training leaves as they are."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from configs.schema.types import Count, Section


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
