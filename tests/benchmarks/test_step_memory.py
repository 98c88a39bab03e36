"""The stand-in for Metal's convolutions, the rows, and the verdict on them."""

import dataclasses
import sys

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import step_memory
from ops import backend
from ops.convolution import rules


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 1), ((1, 2, 2), (1, 3, 5))])
def test_the_stand_in_has_the_shapes_and_the_weight_gradient_of_a_convolution(stride, kernel) -> None:
    kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
    x = mx.random.normal((1, 4, 5, 6, 3), key=mx.random.key(0))
    w = mx.random.normal((2, *kernel, 3), key=mx.random.key(1))

    def convolution(x: mx.array, w: mx.array) -> mx.array:
        return mx.conv3d(x, w, stride, tuple(k // 2 for k in kernel))

    y = convolution(x, w)
    g = mx.random.normal(y.shape, key=mx.random.key(2))
    (stood,), (dx, dw) = mx.vjp(step_memory.stand_in(convolution), [x, w], [g])
    assert stood.shape == y.shape
    assert dx.shape == x.shape
    np.testing.assert_allclose(dw, mx.vjp(lambda w: convolution(x, w), [w], [g])[1][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "outputs", "expected"),
    [(16, 16, 16), (32, 3, 3), (1, 16, 16 + 16), (3, 64, 16 + 64), (16, 40, 48), (24, 24, 32 + 32)],
)
def test_the_stand_in_allocates_what_metal_does(channels, outputs, expected) -> None:
    x, w = mx.zeros((1, 16, 16, 16, channels)), mx.zeros((outputs, 3, 3, 3, channels))
    mx.eval(x, w)
    mx.clear_cache()  # a larger buffer that is taken from there counts whole
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    y = step_memory.stand_in(lambda x, w: mx.conv3d(x, w, 1, 1))(x, w)
    mx.eval(y)
    assert (mx.get_peak_memory() - before) / (16**3 * 4) == pytest.approx(expected, abs=0.5)


def test_a_row(monkeypatch) -> None:
    monkeypatch.setattr(mx, "conv3d", mx.conv3d)  # which the benchmark replaces
    monkeypatch.setattr(mx, "conv_general", mx.conv_general)
    monkeypatch.setattr(rules, "SMALL_UNFOLD_BYTES", rules.SMALL_UNFOLD_BYTES)
    case = dataclasses.replace(step_memory.small("unet16"), shape=(1, 8, 8, 8, 1), widths=(16, 16))
    limit = mx.set_memory_limit(step_memory.LIMIT_BYTES)
    try:
        row = step_memory.measure(case, "mlx", step_memory.LIMIT_BYTES)
    finally:
        mx.set_memory_limit(limit)
    assert backend.active() == "mlx"
    assert list(row) == ["case", "precision", "form", "peak_bytes"]
    assert (row["case"], row["precision"], row["form"]) == ("unet16", "float32", "mlx")
    level = 8**3 * 16 * 4  # bytes of an activation at full resolution, of which a block keeps two
    assert 5 * level < row["peak_bytes"] < 30 * level


@pytest.mark.parametrize(("peak", "code"), [(130, 0), (131, 1)])
def test_the_exit_code_tells_a_ratio_above_the_allowed(monkeypatch, tmp_path, capsys, peak, code) -> None:
    def run_row(case: str, form: str, limit: int) -> dict:
        peak_bytes = {"onednn": 100, "mlx": peak if limit else 900}[form]
        return {"case": case, "precision": "float32", "form": form, "peak_bytes": peak_bytes * 10**6}

    monkeypatch.setattr(step_memory, "_run_row", run_row)
    monkeypatch.setattr(sys, "argv", ["step_memory", "--cases", "unet16", "--json", str(tmp_path / "rows.json")])
    with pytest.raises(SystemExit) as ended:
        step_memory.main()
    assert ended.value.code == code
    assert f"{peak / 100:.2f}          900.0" in capsys.readouterr().out
    rows = (tmp_path / "rows.json").read_text()
    assert rows.count('"case": "unet16"') == 2
