"""Planning a sweep's runs from its config."""

from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from configs import Config, ConfigError
from data.dataset import open_data
from data.synthetic.phantoms import write_phantoms
from engine.config import load_config
from engine.training.step import random_key
from models import build_model
from studies.sweep.plan import describe, make_plan
from tests.studies.tiny import KIND, PLACES, POSITION, RATE, tiny_sweep

FOLDER = Path(__file__).parents[3] / "configs" / "ablations"


def test_each_cell_runs_under_each_seed_and_fold_with_its_settings(tmp_path) -> None:
    plan = make_plan(tiny_sweep(tmp_path))
    assert [cell.name for cell in plan.cells] == ["kind=none", "kind=channel"]
    runs = {run.folder: run for run in plan.runs}
    assert sorted(runs) == ["kind=channel/seed0", "kind=channel/seed1", "kind=none/seed0", "kind=none/seed1"]
    config = runs["kind=none/seed1"].config
    assert config.run_folder == tmp_path / "study" / "kind=none" / "seed1"
    assert (config.seed, config.model.args.dropout.kind, config.sweep) == (1, "none", None)
    assert plan.baseline == "kind=none"
    assert [run.folder for run in plan.select("*/seed1")] == [r.folder for r in plan.runs if r.seed == 1]
    assert {run.folder for run in plan.select("kind=none")} == {"kind=none/seed0", "kind=none/seed1"}
    assert plan.select(None) == plan.runs
    with pytest.raises(ValueError, match=r"--only x\*: no run of study matches; there are kind="):
        plan.select("x*")
    sweep = {"grid": {KIND: ["none", "channel"]}, "seeds": [3], "folds": [0, 2], "baseline": "kind=channel"}
    plan = make_plan(tiny_sweep(tmp_path, sweep))
    assert {run.folder: run.config.data.fold for run in plan.runs} == {
        f"kind={kind}/seed3-fold{fold}": fold for kind in ("none", "channel") for fold in (0, 2)
    }
    assert plan.baseline == "kind=channel"


def test_every_block_holds_all_cells_shuffled(tmp_path) -> None:
    grid = {RATE: [round(0.05 * i, 2) for i in range(1, 9)]}
    plan = make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0, 1, 2]}))
    blocks = [plan.runs[i : i + 8] for i in (0, 8, 16)]
    assert [{run.seed for run in block} for block in blocks] == [{0}, {1}, {2}]
    orders = [[run.cell for run in block] for block in blocks]
    names = [cell.name for cell in plan.cells]
    assert all(sorted(order) == sorted(names) and order != names for order in orders)
    assert orders[0] != orders[1]
    more = make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0, 1, 2, 3]}))
    assert [run.folder for run in more.runs[:24]] == [run.folder for run in plan.runs]  # seeds may be added
    other = make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0, 1, 2], "order_seed": 1}))
    assert [run.cell for run in other.runs[:8]] != orders[0]


def test_cells_that_train_the_same_run_once(tmp_path) -> None:
    sweep = {
        "grid": {KIND: ["none", "channel"], RATE: [0.1, 0.2]},
        "cells": [
            {"name": "zero", KIND: "channel", RATE: 0.0},  # draws nothing
            {"name": "nowhere", KIND: "channel", PLACES: []},
            {"name": "decayed", KIND: "none", "optim.weight_decay": 0.5},  # the same table, another run
        ],
        "seeds": [0, 1],
    }
    plan = make_plan(tiny_sweep(tmp_path, sweep))
    first = "kind=none,rate=0.1"
    trained = (first, "kind=channel,rate=0.1", "kind=channel,rate=0.2", "decayed")
    same_as = dict.fromkeys(trained) | dict.fromkeys(("kind=none,rate=0.2", "zero", "nowhere"), first)
    assert {cell.name: cell.same_as for cell in plan.cells} == same_as
    assert Counter(run.cell for run in plan.runs) == dict.fromkeys(trained, 2)


def test_sweep_json_holds_each_cells_own_table(tmp_path) -> None:
    written = describe(make_plan(tiny_sweep(tmp_path)))
    assert written["cells"][0] == {
        "name": "kind=none",
        "settings": {KIND: "none"},
        "dropout": [],
        "dose": {"layers": 0, "kept": dict.fromkeys(("encoder", "skip", "bottleneck", "decoder"), 1.0)},
        "same_as": None,
    }
    assert written["cells"][1]["dropout"] == [
        ["encoder.0.blocks.0.drop", "channel", 0.1, "encoder", "after_activation"],
        ["bottleneck.blocks.0.drop", "channel", 0.1, "bottleneck", "after_activation"],
        ["decoder.0.blocks.0.drop", "channel", 0.1, "decoder", "after_activation"],
    ]
    kept = {"encoder": 0.9, "skip": 0.9, "bottleneck": 0.9, "decoder": 0.9}  # the encoder's mask is on the skips too
    assert written["cells"][1]["dose"] == {"layers": 3, "kept": kept}
    assert (written["metric"], written["mode"], written["baseline"]) == ("dice.mean", "max", "kind=none")
    assert (written["seeds"], written["folds"], written["train_cases"]) == ([0, 1], [0], 0)
    run = written["runs"][0]
    assert run["folder"] == f"{run['cell']}/seed{run['seed']}"


def test_positions_are_cells_and_one_runs_once_where_it_is_the_same_function(tmp_path) -> None:
    grid = {POSITION: ["after_activation", "after_norm", "before_norm"]}
    same = {"position=after_activation": None, "position=after_norm": "position=after_activation"}
    plan = make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0]}))
    assert {cell.name: cell.same_as for cell in plan.cells} == {**same, "position=before_norm": None}
    plan = make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0]}, model={"args": {"activation": "gelu"}}))
    assert [cell.same_as for cell in plan.cells] == [None] * 3


def test_all_places_have_one_mask_a_path_and_say_how_many_layers(tmp_path) -> None:
    places = {name: [name] for name in ("encoder", "bottleneck", "decoder", "skip")}
    grid = {PLACES: {**places, "all": list(places)}}
    model = {"args": {"convolutions": 2, "dropout": {"rate": 0.2}}}
    written = describe(make_plan(tiny_sweep(tmp_path, {"grid": grid, "seeds": [0]}, model=model)))
    doses = {cell["name"].removeprefix("places="): cell["dose"] for cell in written["cells"]}
    assert [dose["layers"] for dose in doses.values()] == [2, 2, 2, 1, 7]
    assert set(doses["all"]["kept"].values()) == {0.8}
    assert doses["encoder"]["kept"] == {"encoder": 0.8, "skip": 0.8, "bottleneck": 1.0, "decoder": 1.0}
    assert doses["skip"]["kept"] == {"encoder": 1.0, "skip": 0.8, "bottleneck": 1.0, "decoder": 1.0}


def test_a_cell_that_does_not_fit_the_schema_is_named(tmp_path) -> None:
    sweep = {"cells": [{"name": "fine", RATE: 0.1}, {"name": "wet", RATE: 1.5}]}
    with pytest.raises(ConfigError, match=r"study: cell wet: 1 problem\(s\)\n  model\.args\.dropout\.rate: .*1\.5"):
        make_plan(tiny_sweep(tmp_path, sweep))
    expected = r"cell ratt=1: 1 problem\(s\)\n  model\.args\.dropout\.ratt: unknown key; did"
    with pytest.raises(ConfigError, match=expected):
        make_plan(tiny_sweep(tmp_path, {"cells": [{"model.args.dropout.ratt": 1}]}))


SMALL = {
    "channel_dropout.yaml": ["model.args.widths=[2, 4, 6]", "model.args.residual=true"],
    "head_dropout.yaml": ["model.args.width=2"],
    "head_dropout_quick.yaml": ["model.args.widths=[2, 4]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_cells_of_a_seed_begin_with_the_same_weights_and_random_numbers(name: str) -> None:
    """With any dropout layers between the others."""
    plan = make_plan(load_config(FOLDER / name, SMALL[name]))
    assert len({len(cell.dropout) for cell in plan.cells}) > 2
    first = _begin(next(run.config for run in plan.runs if run.seed == 0))
    for run in plan.runs:
        weights = _begin(run.config)
        assert weights.keys() == first.keys()
        same = {path for path in first if np.array_equal(weights[path], first[path])}
        drawn = {path for path in first if first[path].std() > 0 and "norm" not in path}
        assert len(drawn) > 2
        assert not (first.keys() - same if run.seed == 0 else drawn & same), run.folder


def _begin(config: Config) -> dict[str, np.ndarray]:
    mx.random.seed(config.seed)
    model = build_model(config.model.name, config.model.args, in_channels=1, num_outputs=3)
    return {path: np.array(a) for path, a in [*tree_flatten(model.parameters()), ("random", random_key())]}


def test_cells_of_a_seed_see_the_same_batches(tmp_path) -> None:
    write_phantoms(tmp_path / "phantoms", 5, seed=0, shape=(24, 24, 24))
    augment = {"flip": {"probability": 0.5}, "noise": {"probability": 1.0, "std": [0.1, 0.2]}}
    data = {"root": str(tmp_path / "phantoms"), "spacing_mm": [4, 4, 4], "augment": augment}
    plan = make_plan(tiny_sweep(tmp_path, data=data))
    seen = {run.folder: _first_batches(run.config) for run in plan.runs}
    for seed in (0, 1):
        np.testing.assert_array_equal(seen[f"kind=none/seed{seed}"], seen[f"kind=channel/seed{seed}"])
    assert not np.array_equal(seen["kind=none/seed0"], seen["kind=none/seed1"])


def _first_batches(config: Config) -> np.ndarray:
    with open_data(config).train_stream(epoch=1) as stream:
        return np.stack([stream.next()["x"] for _ in range(2)])


def test_in_the_head_both_kinds_draw_the_same_masks(tmp_path) -> None:
    file = "head_dropout_quick.yaml"
    plan = make_plan(load_config(FOLDER / file, SMALL[file]))
    cells = {cell.name: cell for cell in plan.cells}
    assert cells["kind=element,places=head"].same_as == "kind=channel,places=head"
    outputs = []
    for kind in ("element", "channel"):
        config = load_config(FOLDER / file, [*SMALL[file], f"{KIND}={kind}", f"{PLACES}=[head]", f"{RATE}=0.5"])
        mx.random.seed(0)
        model = build_model(config.model.name, config.model.args, in_channels=1, num_outputs=3)
        model.train()
        outputs.append(np.array(model(mx.ones((4, 8, 8, 8, 1)))))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0][0], outputs[0][1])  # dropped, each sample by a mask of its own
