"""The roles of keys that are declared beside what is registered count wherever roles decide."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from configs.schema.augment import ChangeArgs
from configs.schema.types import RUNTIME
from data.sampling.intensity_changes import CHANGES, Change
from engine.config import check_config
from engine.runs.run_config import read_config
from engine.runs.run_folder import RunFolder
from studies.comparison.read_runs import read_study
from studies.sweep.folder import check_unchanged, record
from studies.sweep.plan import make_plan
from tests.studies.comparison.test_read_runs import edit_config
from tests.studies.made_up import write_sweep
from tests.studies.tiny import tiny_sweep


class InvertArgs(ChangeArgs):
    """Take the image from a constant."""

    constant: float = 1.0
    verbosity: Annotated[int, RUNTIME] = 0


def invert(patch: np.ndarray, args: InvertArgs, rng: np.random.Generator) -> np.ndarray:
    return np.float32(args.constant) - patch


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHANGES, "invert", Change(InvertArgs, invert))


def test_in_an_evaluation(tmp_path: Path) -> None:
    tree = {"name": "run", "data": {"root": "."}, "model": {}, "train": {"steps": 1}}
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_config(check_config(tree, "test"))
    changes: Any = read_config(run, ["data.augment.invert.verbosity=2"]).data.augment
    assert changes.invert.verbosity == 2
    with pytest.raises(ValueError, match=r"data\.augment\.invert\.constant was fixed"):
        read_config(run, ["data.augment.invert.constant=2"])


def test_between_the_runs_of_a_sweep(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", lambda cell, seed, fold: np.full((3, 2), 0.5))
    edit_config(folder / "none" / "seed1", "data.augment.invert.verbosity", 2)
    assert not any(run.missing for run in read_study(folder).runs)
    edit_config(folder / "none" / "seed1", "data.augment.invert.constant", 2)
    with pytest.raises(ValueError, match=r"data\.augment\.invert\.constant=2, but None in none/seed0"):
        read_study(folder)


def test_in_a_sweep_that_goes_on(tmp_path: Path) -> None:
    def plan(**keys: Any) -> Any:
        return make_plan(tiny_sweep(tmp_path, data={"augment": {"invert": keys}}))

    record(plan())
    check_unchanged(plan(verbosity=2))
    with pytest.raises(ValueError, match=r"data\.augment\.invert\.constant: 1\.0 -> 2\.0"):
        check_unchanged(plan(constant=2))
