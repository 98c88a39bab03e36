import json
from pathlib import Path
from typing import Any

import pytest

from engine.runs.pack import read_pack
from engine.runs.pack.archive import PackError
from engine.runs.pack.manifest import only_numbers
from tests.engine.pack.packs import read_members, with_facts, with_members, write_pack

STATISTICS = {
    "class_names": ["background", "nucleus"],
    "channel_names": ["T1"],
    "file_channels": 1,
    "num_channels": 1,
    "normalisation": "zscore",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack")).path


def refused(path: Path) -> str:
    with pytest.raises(PackError) as caught:
        read_pack(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"format": 2}, "format '2'; this version of mlx-volumes reads format 1"),
        ({"format": None}, "format 'None'"),
        ({"licence": ""}, "licence: "),
        ({"licence": ["MIT"]}, "licence: "),
        ({"extra": 1}, "extra: "),
        ({"parameters": -1}, "parameters: "),
        ({"checkpoint": {"name": "best", "step": 3, "weights": "../x"}}, "checkpoint.weights: "),
        ({"statistics": {**STATISTICS, "class_names": ["a", "a"]}}, "two classes have the same name"),
        ({"statistics": {**STATISTICS, "class_names": ["a" * 201, "b"]}}, "statistics.class_names.0: "),
        ({"statistics": {**STATISTICS, "class_names": ["a", "=HYPERLINK(1)"]}}, "would be a formula to a spreadsheet"),
        ({"statistics": {**STATISTICS, "class_names": ["a", "-1+cmd|' /C x'!A0"]}}, "would be a formula"),
        ({"statistics": {**STATISTICS, "file_channels": 10**9}}, "statistics.file_channels: "),
        ({"statistics": {**STATISTICS, "num_channels": 2}}, "takes 1 channels, pack.json says 2"),
        ({"statistics": {**STATISTICS, "normalisation": "ct"}}, "normalises by zscore, pack.json ct"),
        ({"statistics": {**STATISTICS, "multi_label": False}}, "pack.json holds the statistics of another task"),
        ({"temperatures": {"plain": 0}}, "temperatures.plain: "),
        ({"versions": {f"v{i}": "1" for i in range(51)}}, "versions: "),
    ],
)
def test_facts_that_do_not_fit(pack: Path, facts: dict[str, Any], match: str) -> None:
    assert match in refused(with_facts(pack, **facts))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 1}', b"9" * 5000])
def test_what_is_no_pack_json(tmp_path: Path, pack: Path, content: bytes) -> None:
    from engine.runs.pack.archive import write_archive

    write_archive(tmp_path / "a.zip", {**read_members(pack), "pack.json": content})
    assert "pack.json: " in refused(tmp_path / "a.zip")


def test_a_hash_that_is_missing_or_wrong(tmp_path: Path, pack: Path) -> None:
    from engine.runs.pack.archive import write_archive

    for sha256, match in (({}, "sha256 must hold"), ({"config.yaml": "0" * 64}, "sha256 must hold")):
        members = read_members(pack)
        members["pack.json"] = json.dumps({**json.loads(members["pack.json"]), "sha256": sha256}).encode()
        write_archive(tmp_path / "a.zip", members)
        assert match in refused(tmp_path / "a.zip")
    write_archive(tmp_path / "a.zip", {**read_members(pack), "config.yaml": b"name: other\n"})
    assert "config.yaml differs from its SHA-256 in pack.json" in refused(tmp_path / "a.zip")


def test_control_characters_do_not_come_through(pack: Path) -> None:
    path = with_facts(
        pack, licence="MIT\x1b]0;owned\x07\n", statistics={**STATISTICS, "class_names": ["a\x1b[2J", "b"]}
    )
    facts = read_pack(path).facts
    assert facts.licence == "MIT\ufffd]0;owned\ufffd\ufffd"
    assert facts.class_names == ("a\ufffd[2J", "b")


def test_metrics_are_numbers_alone(pack: Path) -> None:
    metrics = {"val": {"num_cases": 3, "evil": "<script>", "details": {"x\x1b": [1, "y", None, 2.5, True]}}}
    assert read_pack(with_facts(pack, metrics=metrics)).facts.metrics == {
        "val": {"num_cases": 3, "details": {"x\ufffd": [1, 2.5]}}
    }
    deep: Any = 1
    for _ in range(50):
        deep = {"a": deep}
    assert read_pack(with_facts(pack, metrics=deep)).facts.metrics == {}
    assert only_numbers({"a": float("nan"), "b": float("inf"), "c": -1.5}) == {"c": -1.5}
    assert only_numbers({"a": 10**4000, "b": -(10**400), "c": 2**53}) == {"c": 2**53}  # beyond what a float holds


def test_the_facts_of_a_good_pack(pack: Path) -> None:
    facts = read_pack(with_members(pack, {})).facts
    assert facts.class_names == ("background", "nucleus")
    assert (facts.checkpoint.name, facts.checkpoint.step, facts.checkpoint.weights) == ("best", 3, "ema")
    assert facts.licence == "CC-BY-4.0"
