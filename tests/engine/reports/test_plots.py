import base64
import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from engine.evaluation.labelling import Labelling
from engine.reports import plots
from engine.reports.plots import COLORS, plain, plot_case, plot_curves, plot_scores
from engine.reports.slices import cut_slices


def decode(uri: str, kind: str) -> bytes:
    head, _, data = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    return base64.b64decode(data)


@pytest.mark.parametrize("predicted", [1, 2])
def test_outlines_have_their_class_colour(predicted: int) -> None:
    prediction = np.zeros((20, 20, 20), np.uint8)
    prediction[6:14, 6:14, 6:14] = predicted
    prediction[5, 5, 5] = 9  # an ignore label has no outline
    slices = cut_slices(prediction, None, (1.0, 1.0, 1.0))
    uri = plot_case(np.zeros((20, 20, 20), np.float32), slices, Labelling(("background", "a", "b")))
    pixels = matplotlib.image.imread(io.BytesIO(decode(uri, "png")))[:, :, :3]
    found = [int((np.abs(pixels - to_rgb(color)).max(-1) < 0.02).sum()) for color in COLORS[:2]]
    assert found[predicted - 1] > 300
    assert found[2 - predicted] == 0


def test_curves_and_scores_are_svg_and_names_no_formulas() -> None:
    series = {"left": [(0, 1.0), (10, 0.5)], "mean": [(0, 1.0), (10, 0.7)]}
    text = decode(plot_curves(series, "Dice"), "svg+xml").decode()
    assert COLORS[0] in text  # the class; the mean is grey
    assert COLORS[1] not in text
    text = decode(plot_scores({"left": [0.5, np.nan], "right": [np.nan]}, "Dice"), "svg+xml").decode()
    assert COLORS[0] in text
    assert "http://www.w3.org/1999/xlink" in text
    assert plot_curves(series, "Dice") == plot_curves(series, "Dice")  # same numbers, same file
    name = "$\\no$ 1"  # a formula of a command that does not exist
    text = decode(plot_scores({name: [0.5]}, "Dice"), "svg+xml").decode()
    assert f"<!-- {name} -->" in text  # says which text the glyphs are
    assert plain("a $ b") == r"a \$ b"


@pytest.mark.parametrize("value", [0.5, 5.1e-4, 123_456.0])
def test_the_axis_of_small_and_large_values_keeps_its_label(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "data_uri", lambda figure, kind: figures.append(figure) or "")
    plots.plot_curves({"learning rate": [(1, value), (2, value * 1.02)]}, "learning rate")
    (figure,) = figures
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.label.get_window_extent().x0 >= 0
