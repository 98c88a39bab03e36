"""What the files of a run's folder must hold: people edit them, and disks lose parts of them."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)


class _Facts(BaseModel):
    """Keys that are not named here may be there too."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Statistics(_Facts):
    class_names: Annotated[list[str], Field(min_length=1)]  # one of a single region
    num_channels: PositiveInt
    file_channels: PositiveInt


class _Environment(_Facts):
    resumed: list[dict[str, Any]] = []


class _DataFile(_Facts):
    path: str
    bytes: int | None
    modified_ns: int | None
    hash: str | None


class _StoredFile(_Facts):
    bytes: int
    crc32: int


class _State(_Facts):
    step: NonNegativeInt
    files: dict[str, _StoredFile]


class _Line(_Facts):
    step: NonNegativeInt
    split: Literal["train", "val"]


def _each_once(splits: dict[str, list[str]]) -> dict[str, list[str]]:
    seen: dict[str, str] = {}
    for split, cases in splits.items():
        for case in cases:
            if case in seen:
                raise ValueError(f"case {case} is in {seen[case]} and in {split}")
            seen[case] = split
    if "train" not in splits:
        raise ValueError("expected a list train")
    return splits


_SHAPES: dict[str, TypeAdapter[Any]] = {
    "statistics": TypeAdapter(_Statistics),
    "environment": TypeAdapter(_Environment),
    "files": TypeAdapter(dict[str, _DataFile]),
    "splits": TypeAdapter(Annotated[dict[str, list[Annotated[str, Field(strict=True)]]], AfterValidator(_each_once)]),
    "skipped": TypeAdapter(list[dict[Literal["case", "file", "reason"], str]]),
    "state": TypeAdapter(_State),
    "metrics": TypeAdapter(_Line),
}


def read_json(path: Path) -> Any:
    """Return what the file holds, of the shape that a file of this name has in a run.

    Raises ValueError that names the file, what is wrong with it, and the fix.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; was this run written by train.py?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); restore the file") from None
    if wrong := what_is_wrong(path.stem, value):
        raise ValueError(f"{path}: {wrong}; restore the file as train.py wrote it")
    return value


def what_is_wrong(name: str, value: Any) -> str | None:
    """Return the first thing that a run's file of this name, or a line of metrics.jsonl, may not hold."""
    try:
        if name in _SHAPES:
            _SHAPES[name].validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"]
    return None
