from pathlib import Path

import pytest

from engine.evaluation.seen import divide, find_choice, warn_of_cases
from engine.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    for step in ("3", "7"):
        (folder.checkpoints / step).mkdir(parents=True)
    for name, step in (("best", "3"), ("last", "7")):
        (folder.checkpoints / name).symlink_to(step)
    return folder


def test_cases_go_by_split_and_any_member_may_have_seen_them() -> None:
    splits = {"train": ["a", "b"], "val": ["c", "d"], "test": []}
    found = divide(["a", "c", "d", "x"], splits, seen=["a", "d"])
    assert found == {"train": ["a", "d"], "val": ["c"], "other": ["x"]}


def test_best_was_chosen_unless_it_is_the_last(run: RunFolder) -> None:
    run.append_metrics({"step": 3, "split": "val", "auc": 0.8})
    chosen = {"metric": "auc", "best": {"step": 3, "value": 0.8}, "last": {"step": 7, "value": 0.8}}
    assert find_choice(run, run.checkpoints / "best", "auc") == chosen
    assert find_choice(run, run.checkpoints / "3", "auc") == chosen  # by another name
    assert find_choice(run, run.checkpoints / "last", "auc") is None
    missing = find_choice(run, run.checkpoints / "best", "f1")
    assert missing is not None
    assert "f1 of best – at step 3, last – at step 7" in warn_of_cases({"optimistic": missing})[0]
    (run.checkpoints / "best").unlink()
    (run.checkpoints / "best").symlink_to("7")
    assert find_choice(run, run.checkpoints / "best", "auc") is None


def test_classifications_are_told_by_auc_and_accuracy() -> None:
    part = {"num_cases": 5, "auc": 0.75, "accuracy": 0.8, "f1": 0.1}
    notes = warn_of_cases({"training_cases": 5, "splits": {"train": part, "val": {**part, "num_cases": 2}}})
    assert notes[1] == (
        "Apart: train, 5 cases: auc 0.7500, accuracy 0.8000; val, 2 cases: auc 0.7500, accuracy 0.8000."
    )
    assert warn_of_cases({"training_cases": 0}) == []
