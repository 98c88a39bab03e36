"""Decisions as YAML: whatever names are in them, it reads back as it was decided."""

import pytest
import yaml

from machine.terminal import printable
from planning.proposal.rules import Decision, render


@pytest.mark.parametrize(
    "name",
    ["left lung", "Größe", "yes", "a: #b", "two\nlines", "\x1b[31mred", "turned \u202egnp", "line\u2028end", "\udce9"],
)
def test_names_read_back_and_move_no_terminal(name: str) -> None:
    decisions = [
        Decision("data.class_names", ["background", name], f"{name} is one of them"),
        Decision("data.augment.flip", {"probability": 0.5}),
        Decision("train.steps", 10),
    ]
    text = printable(render([f"Planned from {name}"], decisions))
    assert yaml.safe_load(text) == {
        "data": {"class_names": ["background", name], "augment": {"flip": {"probability": 0.5}}},
        "train": {"steps": 10},
    }
