"""data.regions: what a config may say of them, and the messages of what it may not."""

from typing import Any

import pytest

from configs import Config, ConfigError
from configs.regions import gaps, held, regions_of_files
from engine.config import check_config

BRATS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def config(regions: Any = BRATS, data: dict[str, Any] | None = None, **sections: Any) -> Config:
    tree = {"name": "r", "data": {"root": "x", "regions": regions, **(data or {})}, "train": {"steps": 1}}
    return check_config({**tree, **sections}, "r")


def test_regions_keep_their_order() -> None:
    found = config({"core": [2, 3], "whole": [3, 1]}).data.regions
    assert found is not None
    assert list(found.items()) == [("core", (2, 3)), ("whole", (3, 1))]
    assert (held(found), gaps(found), gaps({"a": (4,)})) == ([1, 2, 3], [], [1, 2, 3])


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"a": [0, 1]}, "regions.a holds 0, the background; list values from 1 upwards"),
        ({"a": [-1]}, "regions.a holds -1, which is no label value"),
        ({"a": []}, "regions.a is empty; list the label values that it holds"),
        ({"a": [1, 1]}, r"regions.a=\[1, 1\] holds a value twice"),
        ({"a": [1, 2], "b": [2, 1]}, "regions.a and regions.b hold the same label values; leave one out"),
        ({"mean": [1]}, "'mean' cannot be a region's name"),
        ({}, "data.regions"),
        ({f"r{n}": [n + 1] for n in range(17)}, "data.regions"),
    ],
)
def test_regions_that_are_none(regions: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(regions)


@pytest.mark.parametrize(
    ("data", "sections", "message"),
    [
        ({"region_values": [1, 2]}, {}, r"region_values=\[1, 2\] must be 3 different values, one for each region"),
        ({"region_values": [1, 1, 3]}, {}, "must be 3 different values"),
        ({"region_values": [1, 1, 2]}, {}, "must be 3 different values"),
        ({"region_values": [1, 3, 2]}, {}, r"region_values: 2 is not in regions.enhancing=\[3\]; write one of these"),
        ({"regions": None, "region_values": [1]}, {}, "region_values are of data.regions, which are not set"),
        ({"class_names": ["background", "a"]}, {}, "class_names what each label value is: leave one out"),
        ({"label_map": {4: 7}}, {}, r"data.label_map\[4\]=7: no region of data.regions holds 7"),
        ({}, {"loss": {"ignore_label": 3}}, "data.regions.whole holds loss.ignore_label=3; take it out"),
        ({}, {"loss": {"name": "focal"}}, "loss.name=focal does not take data.regions; use dice_ce or dice or cross"),
        ({}, {"loss": {"include_background": True}}, "include_background: data.regions have no background"),
        ({}, {"loss": {"class_weights": [1, 2]}}, "loss.class_weights has 2 entries; data.regions has 3"),
        ({}, {"task": "classification", "model": {"name": "cnn3d"}}, "regions is for label volumes; with task=class"),
        ({"source": "csv", "columns": {"label": ["a", "b"]}}, {}, "columns.label names a file of 0 and 1 for each"),
    ],
)
def test_what_does_not_go_with_regions(data: dict[str, Any], sections: dict[str, Any], message: str) -> None:
    if "task" in sections:
        data = {"source": "csv", **data}
    with pytest.raises(ConfigError, match=message):
        config(data.pop("regions", BRATS), data, **sections)


def test_a_label_map_may_lead_into_a_region() -> None:
    assert config(data={"label_map": {4: 3, 5: 0}}).data.label_map == {4: 3, 5: 0}


def test_several_label_columns_are_regions_and_stay_so_in_the_resolved_config() -> None:
    columns = {"label": ["whole", "core"]}
    found = config(None, {"source": "csv", "columns": columns})
    assert found.data.regions == {"whole": (1, 3), "core": (2, 3)}
    assert check_config(found.model_dump(mode="json"), "r") == found
    with pytest.raises(ConfigError, match="names 9 label files; at most 8 are read as regions"):
        config(None, {"source": "csv", "columns": {"label": [f"c{n}" for n in range(9)]}})
    assert regions_of_files(["a", "b", "c"])["c"] == (4, 5, 6, 7)
