import numpy as np
import pytest

from benchmarks.operators import __main__ as operators
from benchmarks.operators.cases import OPERATORS, convolution, our_commands, transposed_convolution


def test_operations_of_a_convolution_by_hand():
    assert convolution((2, 4, 4, 4, 3), 5).flops == 2 * (2 * 64) * 27 * 3 * 5
    assert convolution((1, 8, 8, 8, 2), 4, stride=2).flops == 2 * 64 * 27 * 2 * 4
    assert transposed_convolution((1, 3, 3, 3, 2), 4).flops == 2 * 27 * 8 * 2 * 4


def test_the_image_of_a_first_layer_gets_no_gradient():
    assert convolution((1, 4, 4, 4, 1), 2).image
    assert not convolution((1, 4, 4, 4, 2), 2).image


def test_each_operator_has_a_forward_and_a_gradients_command(monkeypatch):
    monkeypatch.setitem(OPERATORS, "small", convolution((1, 4, 4, 4, 1), 2))
    commands = our_commands("float32")
    assert set(commands) == {f"{name} {part}" for name in OPERATORS for part in ("forward", "gradients")}
    assert commands["small forward"]() == commands["small gradients"]() == 0.0


class FakeWorker:
    def __init__(self, seconds):
        self.seconds = seconds

    def do(self, command):
        return self.seconds, 0.0


def test_a_row_compares_with_the_faster_memory_format(monkeypatch):
    monkeypatch.setitem(OPERATORS, "small", convolution((2, 4, 4, 4, 3), 5))
    row = operators._row("small", [FakeWorker(s) for s in (1e-3, 4e-3, 2e-3)], warmup=0, rounds=4)
    assert row["ratio"] == pytest.approx(2)
    assert row["torch_memory_format"] == "channels_last"
    assert row["gflops"] == pytest.approx(3 * OPERATORS["small"].flops / 1e-3 / 1e9)


def test_without_pytorch_there_is_no_ratio(monkeypatch):
    monkeypatch.setitem(OPERATORS, "small", convolution((2, 4, 4, 4, 3), 5))
    assert "ratio" not in operators._row("small", [FakeWorker(1e-3)], warmup=0, rounds=2)


def test_rows_print_their_rate_beside_the_peak(capsys):
    row = {"operator": "small", "precision": "float32", "threads": 2, "seconds": 0.002, "gflops": np.float64(100)}
    row |= {"peak_gflops": 200.0, "torch_seconds": 0.004, "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1}
    operators.show([row])
    header, _, line = capsys.readouterr().out.splitlines()
    assert header == "float32, 2 threads; peak 200 GFLOP/s"
    assert line.split() == ["small", "2.00", "100", "50%", "4.00", "2.00", "1.90", "–", "2.10"]
