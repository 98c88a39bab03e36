"""The `sweep` section: one config, many runs."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from configs.schema.types import Section, Seed

Settings = dict[str, Any]  # {dotted.path: value}
Values = tuple[Any, ...] | dict[str, Any]  # of one key; a mapping names each: {all: [encoder, decoder]}

_LONGEST_NAME = 150  # a folder's, on most file systems, may have 255 bytes
_MOST_RUNS = 10_000


class SweepConfig(Section):
    """Cells, each trained under every seed and in every fold.

    A cell is a set of config keys, laid over the rest of the config. The cells are the product of `grid` with the
    rows of `zip`, followed by those of `cells`. A cell's name says what is set: `kind=channel,rate=0.2`.
    """

    grid: dict[str, Values] = Field(default_factory=dict)  # every combination
    zip: dict[str, Values] = Field(default_factory=dict)  # the first values together, then the second ones, ...
    cells: tuple[Settings, ...] = ()  # one by one, each with a `name` if wanted
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    folds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None  # null: data.fold
    baseline: str | None = None  # the cell that the others are compared with; null: the first
    train_cases: Annotated[int, Field(ge=0, le=10**9)] = 0  # training cases scored too, for the generalisation gap
    order_seed: Seed = 0  # of the order of the cells

    @model_validator(mode="after")
    def _can_be_run(self) -> "SweepConfig":
        if not (self.grid or self.zip or self.cells):
            raise ValueError("no cell: set grid, zip or cells")
        if empty := [path for path, values in (*self.grid.items(), *self.zip.items()) if not values]:
            raise ValueError(f"{empty[0]} has no values")
        if len({len(values) for values in self.zip.values()}) > 1:
            lengths = ", ".join(f"{path} has {len(values)}" for path, values in self.zip.items())
            raise ValueError(f"zip needs as many values of each key: {lengths}")
        if twice := sorted(self.grid.keys() & self.zip.keys()):
            raise ValueError(f"{twice[0]} is in grid and in zip; leave it in one")
        for field, numbers in (("seeds", self.seeds), ("folds", self.folds or ())):
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"{field}={list(numbers)} holds a number twice")
        of_zip = max((len(values) for values in self.zip.values()), default=1)
        product = math.prod(len(values) for values in self.grid.values()) * of_zip
        num_cells = len(self.cells) + (product if self.grid or self.zip else 0)
        num_seeds, num_folds = len(self.seeds), len(self.folds or (0,))
        if (runs := num_cells * num_seeds * num_folds) > _MOST_RUNS:
            raise ValueError(
                f"{num_cells:,} cells of grid, zip and cells, {num_seeds:,} seeds and {num_folds:,} folds are {runs:,} "
                f"runs; a sweep has at most {_MOST_RUNS:,}: set fewer values"
            )
        names = self.settings()
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline={self.baseline} is not a cell; expected one of {', '.join(names)}")
        return self

    def paths(self) -> list[str]:
        """Return the dotted paths that cells set."""
        listed = [path for cell in self.cells for path in cell if path != "name"]
        return list(dict.fromkeys([*self.grid, *self.zip, *listed]))

    def settings(self) -> dict[str, Settings]:
        """Return each cell's settings by its name, in order; raises ValueError where a name is taken or unfit."""
        axes = [[{path: pair} for pair in _named(values)] for path, values in self.grid.items()]
        if self.zip:
            columns = [[(path, pair) for pair in _named(values)] for path, values in self.zip.items()]
            axes.append([dict(row) for row in zip(*columns, strict=True)])
        found: dict[str, Settings] = {}
        short = _short_paths(self.paths())
        cells = [{path: pair for part in parts for path, pair in part.items()} for parts in itertools.product(*axes)]
        for cell in cells if axes else ():
            name = ",".join(f"{short[path]}={label}" for path, (label, _) in cell.items())
            _add(found, name, {path: value for path, (_, value) in cell.items()})
        for listed in self.cells:
            values = {path: value for path, value in listed.items() if path != "name"}
            name = ",".join(f"{short[path]}={_label(value)}" for path, value in values.items())
            _add(found, str(listed.get("name", name)), values)
        return found


def _add(cells: dict[str, Settings], name: str, settings: Settings) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*", name):
        raise ValueError(f"cell name {name!r}: expected letters, digits and . _ = , + - alone; set the cell's name")
    if len(name) > _LONGEST_NAME:
        raise ValueError(
            f"cell name {name[:40]}... has {len(name)} characters, a folder's name at most {_LONGEST_NAME}; name the "
            "cell, or the values: {short: VALUE}"
        )
    if name in cells:
        raise ValueError(f"two cells are called {name}; give each its own name")
    cells[name] = settings


def _named(values: Values) -> list[tuple[str, Any]]:
    """(name, value) of each."""
    if isinstance(values, Mapping):
        return [(_label(name), value) for name, value in values.items()]
    return [(_label(value), value) for value in values]


def _label(value: Any) -> str:
    """Return a value as part of a folder's name."""
    if isinstance(value, list | tuple):
        return "+".join(_label(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "+".join(f"{key}-{_label(item)}" for key, item in value.items()) or "none"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)


def _short_paths(paths: list[str]) -> dict[str, str]:
    """Return each path's shortest ending that no other one has."""
    short = {}
    for path in paths:
        parts = path.split(".")
        endings = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [other for other in paths if other != path]
        unique = (end for end in endings if not any(f".{other}".endswith(f".{end}") for other in others))
        short[path] = next(unique, path)
    return short
