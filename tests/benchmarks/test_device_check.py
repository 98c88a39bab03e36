"""The self-check finds an operator that is wrong, and goes on where one crashes."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.device_check import __main__ as device_check
from benchmarks.device_check.__main__ import (
    ALLOWED,
    Check,
    Row,
    compare,
    format_block,
    is_fit,
    list_checks,
    run,
    verdict,
)
from ops import backend

pytestmark = pytest.mark.slow

SIZE = (8, 8, 8)
CONVOLUTION = Check("operator", "conv3d 3³ 2×8×8×8 16→16", "float32", SIZE)
UPSAMPLE = Check("operator", "upsample3d nearest 2×4×4×4×16", "float32", SIZE)

# A row's process in which the device does something of its own with a convolution.
FAULTY = """
import sys
import mlx.core as mx
from benchmarks.device_check import rows
import ops, json
own = ops.conv3d
def conv3d(x, w, *arguments, **more):
    {fault}
if '"side": "device"' in sys.argv[-1]:
    ops.conv3d = conv3d
rows.compute_row(json.loads(sys.argv[1]))
"""


def faulty(fault: str) -> list[str]:
    return [sys.executable, "-c", FAULTY.format(fault=fault)]


def test_operators_that_agree_with_the_cpu_are_fit(tmp_path: Path) -> None:
    rows = [run(CONVOLUTION, tmp_path), run(UPSAMPLE, tmp_path)]
    assert [row.verdict for row in rows] == ["ok", "ok"]
    assert is_fit(rows)
    for row in rows:
        assert row.difference is not None
        assert row.difference < 1e-5
        assert row.milliseconds is not None
        assert row.peak_bytes is not None
        assert row.peak_bytes >= 4 * 2 * 8**3 * 16  # its output at least
    assert verdict(rows) == "fit: 2 rows agree with the CPU"


def test_a_wrong_operator_is_found(tmp_path: Path) -> None:
    row = run(CONVOLUTION, tmp_path, faulty("return own(x, w[:, :, :, ::-1], *arguments, **more)"))
    assert row.verdict == "WRONG"
    assert row.difference is not None
    assert row.difference > 0.1
    assert row.text().split()[-2:] == ["WRONG", f"({row.where})"]
    assert verdict([row]) == "NOT fit: 1 of 1 rows: conv3d 3³ 2×8×8×8 16→16 float32"
    assert not is_fit([row])


def test_a_wrong_gradient_is_found(tmp_path: Path) -> None:
    row = run(CONVOLUTION, tmp_path, faulty("return own(x, mx.stop_gradient(w), *arguments, **more)"))
    assert (row.verdict, row.where) == ("WRONG", "gradient 1")
    assert row.difference == pytest.approx(1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("raise RuntimeError('[malloc] Unable to allocate 9 bytes.')", "RuntimeError: [malloc] Unable to allocate 9"),
        ("import os; os.abort()", "ended by signal SIGABRT"),
    ],
)
def test_a_crash_is_a_row_and_not_the_end(tmp_path: Path, fault: str, expected: str) -> None:
    row = run(CONVOLUTION, tmp_path, faulty(fault))
    assert row.verdict.startswith(f"failed: {expected}")
    assert not is_fit([row])
    assert f"failed: {expected}" in row.text()


def test_differences_by_hand() -> None:
    expected = {"value": np.array([1.0, -4.0]), "gradient 0": np.array([3.0, 4.0]), "gradient 1": np.zeros(2)}
    actual = {"value": np.array([1.0, -3.0]), "gradient 0": np.array([3.0, 4.5]), "gradient 1": np.zeros(2)}
    assert compare(expected, actual) == {"value": 0.25, "gradient 0": 0.1, "gradient 1": 0.0}
    assert np.isnan(compare({"value": np.ones(1)}, {"value": np.array([np.nan])})["value"])
    assert compare({"value": np.ones(2)}, {"value": np.ones(3)}) == {"value": np.inf}


def test_what_the_cpu_could_not_compute_is_told_apart() -> None:
    rows = [Row(UPSAMPLE, "ok", 1e-7, "", 1.0, 10**6), Row(CONVOLUTION, "unchecked: the CPU failed: …")]
    assert is_fit(rows)
    assert verdict(rows) == "fit: 1 rows agree with the CPU, 1 unchecked"
    block = format_block({"mlx": "0.32.2", "driver": None}, rows).splitlines()
    assert block[:2] == ["```", "mlx           0.32.2"]
    name, precision = "upsample3d nearest 2×4×4×4×16", "float32"
    assert block[2] == f"{name:<48}{precision}    1.0e-07      1.0 ms      1 MB  ok"
    assert block[-2:] == [verdict(rows), "```"]


def test_every_operator_and_network_is_checked_in_each_precision_at_each_size() -> None:
    checks = list(list_checks([(32, 32, 32), (64, 64, 48)], ("float32", "bfloat16")))
    assert len(checks) == 2 * 2 * (18 + 2 * 6)
    assert {check.precision for check in checks} == set(ALLOWED)
    names = {check.name for check in checks if check.size == (64, 64, 48)}
    assert {"conv3d 3³ 2×64×64×48 1→16", "conv_transpose3d 2³ 2×32×32×24 32→16", "unet3d", "r2plus1d_18"} <= names


def test_it_ends_with_a_block_and_one_line(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(backend, "_form", backend._form)
    monkeypatch.setattr(device_check, "list_checks", lambda sizes, precisions: [UPSAMPLE])
    with pytest.raises(SystemExit) as ended:
        device_check.main(["--quick", "--json", str(tmp_path / "found.json")])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-2]) == ("```", "```")
    assert lines[-1] == lines[-3] == "fit: 1 rows agree with the CPU"
    assert f"mlx           {mx.__version__}" in lines
    assert any(line.startswith("memory_limit  ") for line in lines)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fit"] is True
    assert [row["verdict"] for row in found["rows"]] == ["ok"]


def test_a_patch_that_the_network_cannot_take_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        device_check.main(["--patch", "30", "32", "32"])
    assert ended.value.code == 2
    assert "--patch 30 32 32: the U-Net takes multiples of 4 voxels" in capsys.readouterr().err
