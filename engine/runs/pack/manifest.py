"""pack.json: what a pack says about its model, and what of it is believed."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from configs import Config
from configs.plain_yaml import LARGEST_WHOLE_NUMBER
from configs.schema.types import Count, Positive, Section
from engine.runs.pack.archive import PackError, printable

FORMAT = 1
"""The version of the format that this code writes, and the only one it reads."""

_FORMULA = re.compile(r"\s*[=+\-@].*[(|!]")  # with a call, or a link to another program

Text = Annotated[str, Field(max_length=200), AfterValidator(printable)]
LongText = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(printable)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Channels = Annotated[int, Field(ge=1, le=4096)]


class PackedIntensities(Section):
    """Of one channel, over the training cases' foreground."""

    low: float
    high: float
    mean: float
    std: float


class PackedStatistics(Section):
    """What preparing a volume or clip needs to know of the training data: all that a run's statistics.json holds."""

    class_names: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]
    channel_names: Annotated[tuple[Text, ...], Field(max_length=4096)] | None = None
    multi_label: bool | None = None  # classification
    file_channels: Channels
    num_channels: Channels
    normalisation: Text | None = None  # segmentation
    intensities: Annotated[tuple[PackedIntensities, ...], Field(max_length=4096)] | None = None

    @property
    def own(self) -> str | None:
        """The key that one task alone has; None unless there is exactly one."""
        there = [key for key in ("normalisation", "multi_label") if getattr(self, key) is not None]
        return there[0] if len(there) == 1 else None

    @model_validator(mode="after")
    def _classes_differ(self) -> "PackedStatistics":
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("two classes have the same name")
        if formulas := [name for name in self.class_names if _FORMULA.match(name)]:
            raise ValueError(f"the class name {formulas[0]!r} would be a formula to a spreadsheet that opens cases.csv")
        return self


class PackedCheckpoint(Section):
    """Which weights were packed."""

    name: Text  # best, last, or a step
    step: Annotated[int, Field(ge=0, le=LARGEST_WHOLE_NUMBER)]
    weights: Literal["ema", "raw"]


class Facts(Section):
    """The contents of pack.json."""

    format: Literal[1] = 1
    licence: LongText
    checkpoint: PackedCheckpoint
    parameters: Count
    statistics: PackedStatistics
    temperatures: dict[Literal["plain", "mc_dropout"], Positive]  # fitted for these weights, by kind of prediction
    metrics: dict[Text, Any]  # {split: {"num_cases", "details"}}, numbers alone
    versions: Annotated[dict[Text, Text | None], Field(max_length=50)]
    sha256: dict[Literal["config.yaml", "model.safetensors"], Digest]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.statistics.class_names


def write_facts(facts: Facts) -> bytes:
    """pack.json."""
    text = json.dumps(facts.model_dump(mode="json", exclude_none=True), indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def read_facts(content: bytes, where: Path) -> Facts:
    """Return the checked facts; raises PackError for another format, and for anything that does not fit."""
    where = where / "pack.json"
    try:
        tree = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise PackError(where, f"not valid JSON ({str(error)[:200]})") from None
    found = tree.get("format") if isinstance(tree, dict) else None
    if found != FORMAT:
        raise PackError(where, f"format {str(found)[:20]!r}; this version of mlx-volumes reads format {FORMAT}")
    try:
        facts = Facts.model_validate({**tree, "metrics": only_numbers(tree.get("metrics", {}))})
    except (ValidationError, RecursionError) as error:
        raise PackError(where, _first_problem(error)) from None
    if len(facts.sha256) != 2:
        raise PackError(where, "sha256 must hold config.yaml and model.safetensors")
    return facts


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "nested too deep"
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place[:100]}: {first['msg'].removeprefix('Value error, ')[:300]}"


def only_numbers(tree: Any, depth: int = 6) -> Any:
    """Return the tree with numbers only: text could hold names of cases or files, or anything from a stranger."""
    if isinstance(tree, Mapping) and depth:
        inner = {printable(str(key))[:200]: only_numbers(value, depth - 1) for key, value in tree.items()}
        return {key: value for key, value in inner.items() if value is not None and value != {}}
    if isinstance(tree, list | tuple):
        return [value for value in tree if _is_number(value)]
    return tree if _is_number(tree) else None


def require_fit(facts: Facts, config: Config, where: Path) -> None:
    """Raise PackError where the facts contradict the config."""
    statistics, data = facts.statistics, config.data
    expected = statistics.file_channels if data.channels is None else len(data.channels)
    if data.clip is not None:
        expected = data.clip.num_channels
    if statistics.num_channels != expected:
        raise PackError(where, f"the config takes {expected} channels, pack.json says {statistics.num_channels}")
    if statistics.normalisation not in (None, data.normalisation):
        raise PackError(where, f"the config normalises by {data.normalisation}, pack.json {statistics.normalisation}")
    if statistics.own != config.kind.own_statistic:
        raise PackError(where, f"task={config.task}, but pack.json holds the statistics of another task")
    if data.class_names is not None and data.class_names != statistics.class_names:
        raise PackError(where, "config and pack.json name different classes")


def _is_number(value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return (is_whole and abs(value) <= LARGEST_WHOLE_NUMBER) or (isinstance(value, float) and math.isfinite(value))
