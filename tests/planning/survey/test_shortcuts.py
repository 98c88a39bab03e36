"""Metadata that give the class away."""

from pathlib import Path

import numpy as np
import pytest

from data.layouts.cases import Case
from planning.survey.clips import CLIPS, ClipFacts
from planning.survey.shortcuts import find_shortcuts


def clips(rates: list[float], labels: list[int], groups: list[str | None], codecs: list[str]) -> list[ClipFacts]:
    facts = []
    for number, (rate, label, group, codec) in enumerate(zip(rates, labels, groups, codecs, strict=True)):
        case = Case(f"case{number}", (Path(f"{number}.mp4"),), label, group=group)
        file = {"num_bytes": 1000, "container": "mov/mp4", "codec": codec, "pixels": "yuv420p"}
        frames = {"width": 64, "height": 48, "num_frames": 60, "duration_s": 60 / rate}
        facts.append(ClipFacts(case, digest=str(number), **file, **frames))
    return facts


def make(rng: np.random.Generator, number: int, telling: bool, groups: int | None = None) -> list[ClipFacts]:
    labels = (np.arange(number) % 2).tolist()
    rates = [float(rng.choice([15, 25]) if not telling else (15, 25)[label]) for label in labels]
    names = [None if groups is None else str(n % groups) for n in range(number)]
    return clips(rates, labels, names, ["h264"] * number)


def test_a_frame_rate_that_is_the_class() -> None:
    (finding,) = find_shortcuts(make(np.random.default_rng(0), 40, telling=True), CLIPS)
    assert "frame rate (AUC 1.00)" in finding.text
    assert "only what it does better counts. Set data.clip.frame_rate, short_side_pixels and" in finding.text
    assert finding.brief == "metadata alone give a balanced accuracy of 1.00 on other cases, guessing gives 0.50"


def test_texts_count_too() -> None:
    labels = [n % 3 for n in range(60)]
    found = clips([25.0] * 60, labels, [None] * 60, [("h264", "mpeg4", "vp9")[k] for k in labels])
    (finding,) = find_shortcuts(found, CLIPS)
    assert finding.text.startswith("how the clips were made predicts their class: codec (Cramér's V 1.00)")
    assert "balanced accuracy of 1.00 on other cases, guessing gives 0.33" in finding.text


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_no_shortcut(seed: int) -> None:
    assert find_shortcuts(make(np.random.default_rng(seed), 60, telling=False), CLIPS) == []


def test_few_groups_and_one_class_prove_nothing() -> None:
    assert find_shortcuts(make(np.random.default_rng(0), 40, telling=True, groups=8), CLIPS) == []
    assert find_shortcuts(make(np.random.default_rng(0), 10, telling=True), CLIPS) == []
    assert find_shortcuts(clips([25.0] * 30, [0] * 30, [None] * 30, ["h264"] * 30), CLIPS) == []
