"""Regions: classes of voxels that overlap or nest, each of which holds some of the label values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field

MAX_REGIONS = 16
MAX_FILES = 8  # of 0 and 1: their combinations are label values

LabelValue = Annotated[int, Field(lt=2**15)]
LabelValues = Annotated[tuple[LabelValue, ...], Field(max_length=2**MAX_FILES)]


def held(regions: Mapping[str, Iterable[int]]) -> list[int]:
    """Return the label values that regions hold, each once, in order."""
    return sorted({value for values in regions.values() for value in values})


def gaps(regions: Mapping[str, Iterable[int]]) -> list[int]:
    """Return the label values below the highest that no region holds; 0, the background, is none of them."""
    values = held(regions)
    return sorted(set(range(1, values[-1])) - set(values))


def regions_of_files(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the regions of label files that hold 0 and 1, once file k counts 2 ** k: sums are label values."""
    if len(names) > MAX_FILES:
        raise ValueError(f"data.columns.label names {len(names)} label files; at most {MAX_FILES} are read as regions")
    sums = range(1, 2 ** len(names))
    return {name: tuple(value for value in sums if value >> k & 1) for k, name in enumerate(names)}


def check_regions(regions: Mapping[str, Sequence[int]] | None, written: Sequence[int] | None) -> None:
    """Raise ValueError for regions that cannot be told apart or read, and for values that they cannot be written as."""
    if regions is None:
        if written is not None:
            raise ValueError("region_values are of data.regions, which are not set; leave region_values out")
        return
    owners: dict[frozenset[int], str] = {}
    for name, values in regions.items():
        if not name.strip() or name in ("mean", "background"):
            raise ValueError(f"regions: {name!r} cannot be a region's name; choose another")
        if not values:
            raise ValueError(f"regions.{name} is empty; list the label values that it holds")
        if min(values) < 1:
            what = "0, the background" if 0 in values else f"{min(values)}, which is no label value"
            raise ValueError(f"regions.{name} holds {what}; list values from 1 upwards")
        if len(set(values)) < len(values):
            raise ValueError(f"regions.{name}={list(values)} holds a value twice; list each once")
        other = owners.setdefault(frozenset(values), name)
        if other != name:
            raise ValueError(f"regions.{other} and regions.{name} hold the same label values; leave one out")
    if written is None:
        return
    if len(written) != len(regions) or len(set(written)) < len(written):
        raise ValueError(f"region_values={list(written)} must be {len(regions)} different values, one for each region")
    for (name, values), value in zip(regions.items(), written, strict=True):
        if value not in values:
            raise ValueError(f"region_values: {value} is not in regions.{name}={list(values)}; write one of these")
