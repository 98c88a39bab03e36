"""The verdict on memory, for simulated runs."""

import sys

import pytest

from benchmarks import memory


@pytest.mark.parametrize(
    ("last", "second", "code"), [(1019, "result", 0), (1021, "result", 1), (1000, "another result", 1)]
)
def test_the_exit_code_tells_growth_and_differences(monkeypatch, last, second, code) -> None:
    runs = iter([["result"] * 300, [second] * 300])
    resident = [500] * 99 + [1000] * 200 + [last]
    monkeypatch.setattr(memory, "run", lambda steps: (next(runs), resident))
    monkeypatch.setattr(sys, "argv", ["memory"])
    with pytest.raises(SystemExit) as ended:
        memory.main()
    assert ended.value.code == code


def test_too_few_steps_are_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--steps", "100"])
    with pytest.raises(SystemExit) as ended:
        memory.main()
    assert ended.value.code == 2
    assert "memory is first read at step 100, and must be read again later" in capsys.readouterr().err
