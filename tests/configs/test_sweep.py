"""The `sweep` section: its cells, their names, and mistakes."""

from typing import Any

import pytest

from configs import ConfigError
from configs.schema.sweep import SweepConfig
from engine.config import check_config

KIND, RATE, PLACES = (f"model.args.dropout.{key}" for key in ("kind", "rate", "places"))


def test_a_grid_gives_every_combination_of_values_that_may_be_named() -> None:
    sweep = SweepConfig(grid={KIND: ["element", "channel"], RATE: [0.1, 0.2]})
    assert sweep.settings() == {
        "kind=element,rate=0.1": {KIND: "element", RATE: 0.1},
        "kind=element,rate=0.2": {KIND: "element", RATE: 0.2},
        "kind=channel,rate=0.1": {KIND: "channel", RATE: 0.1},
        "kind=channel,rate=0.2": {KIND: "channel", RATE: 0.2},
    }
    everywhere = ["encoder", "bottleneck"]
    assert SweepConfig(grid={PLACES: {"all": everywhere}}).settings() == {"places=all": {PLACES: everywhere}}
    assert list(SweepConfig(grid={PLACES: [everywhere, []]}).settings()) == ["places=encoder+bottleneck", "places=none"]
    assert list(SweepConfig(grid={"train.x": [None, True, "a/b c"]}).settings()) == ["x=null", "x=true", "x=a_b_c"]


def test_zip_pairs_values_and_names_hold_as_much_of_a_path_as_tells_it_apart() -> None:
    sweep = SweepConfig(
        grid={KIND: ["channel"]},
        zip={RATE: [0.1, 0.2], "optim.weight_decay": [0.01, 0.02]},
        cells=[{"name": "plain", KIND: "none"}, {RATE: 0.5}],
    )
    assert sweep.settings() == {
        "kind=channel,rate=0.1,weight_decay=0.01": {KIND: "channel", RATE: 0.1, "optim.weight_decay": 0.01},
        "kind=channel,rate=0.2,weight_decay=0.02": {KIND: "channel", RATE: 0.2, "optim.weight_decay": 0.02},
        "plain": {KIND: "none"},
        "rate=0.5": {RATE: 0.5},
    }
    sweep = SweepConfig(grid={"model.args.norm": ["batch"], "data.args.norm": ["z"], "optim.name": ["sgd"]})
    assert list(sweep.settings()) == ["model.args.norm=batch,data.args.norm=z,name=sgd"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "sweep: no cell: set grid, zip or cells"),
        ({"grid": {RATE: []}}, f"sweep: {RATE} has no values"),
        ({"zip": {RATE: [1, 2], KIND: [3]}}, f"sweep: zip needs as many values of each key: {RATE} has 2, {KIND} has"),
        ({"grid": {RATE: [1]}, "zip": {RATE: [1]}}, f"sweep: {RATE} is in grid and in zip"),
        ({"grid": {"seed": [1]}}, "sweep: seed cannot be set by a cell: use sweep.seeds"),
        ({"cells": [{"data.fold": 1}]}, r"sweep: data\.fold cannot be set by a cell: use sweep\.folds"),
        ({"grid": {"run.dir": ["x"]}}, r"sweep: run\.dir cannot be set by a cell: all runs lie in the sweep's folder"),
        ({"grid": {RATE: [1]}, "seeds": [0, 0]}, r"sweep: seeds=\[0, 0\] holds a number twice"),
        ({"grid": {RATE: [1]}, "seeds": []}, r"sweep\.seeds: tuple should have at least 1 item"),
        ({"grid": {RATE: [0.1, 0.10]}}, r"sweep: two cells are called rate=0\.1; give each its own name"),
        ({"grid": {RATE: [0.1]}, "baseline": "none"}, r"sweep: baseline=none is not a cell; expected one of rate=0\.1"),
        ({"cells": [{"name": "a b", RATE: 1}]}, "sweep: cell name 'a b': expected letters, digits"),
        ({"cells": [{"name": "x" * 151, RATE: 1}]}, "sweep: cell name x{40}... has 151 characters, a folder's name at"),
        ({"grd": {RATE: [0.1]}}, r"sweep\.grd: unknown key; did you mean grid\?"),
    ],
)
def test_mistakes(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config({"name": "study", "data": {"root": "x"}, "train": {"steps": 1}, "sweep": sweep}, "study.yaml")
