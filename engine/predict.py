"""Prediction with trained networks, for evaluation and for notebooks.

from engine.predict import load
labels = load("runs/mine").predict("scan.nii.gz")
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.nn as nn
import numpy as np

from data.dataset import open_images
from engine.config import Config
from engine.distributed.group import ALONE, Group
from engine.evaluation.cases import make_predict
from engine.evaluation.ensemble import join_config
from engine.evaluation.members import Member, draw_members
from engine.evaluation.sliding_window import Predict
from engine.evaluation.tasks import room_of
from engine.evaluation.temperature import choose_temperature
from engine.runs.checkpoints import load_weights, read_state
from engine.runs.memory_estimate import require_prediction_fits
from engine.runs.pack import PackedRun, describe, export_run, load_packed
from engine.runs.precision import PredictionPrecision
from engine.runs.trained import Overrides, Runs, Trained, open_trained
from models import build_model
from models.layers.dropout import dropout_table, held_masks

_MOST_DRAWS = 1000


def load(
    runs: Runs, *, checkpoint: str | None = None, mc_dropout: int | None = None, overrides: Overrides = ()
) -> "Predictor":
    """Load a run's folder or a pack; of several runs, or with `mc_dropout` draws of one, the mean is predicted.

    checkpoint: `last` (None), `best`, a step, or a path to one. overrides: of the keys that evaluate.py takes, such as
    {"evaluate.overlap": 0.25}. Raises ValueError where there is no such run or checkpoint.
    """
    return Predictor(load_networks(join_runs(open_trained(runs, checkpoint, overrides)), mc_dropout))


class Predictor:
    """Predicts files and arrays, prepared as the training data were, one at a time. Made by `load`.

    class_names   by label value or class number
    """

    def __init__(self, networks: "Networks") -> None:
        self._networks = networks
        first = networks.runs[0]
        self.config = first.config
        self.class_names = tuple(first.statistics["class_names"])
        setting, kind = self.config.evaluate.temperature, networks.prediction["kind"]
        self._temperature = choose_temperature(first.run, setting, kind, networks.checkpoint)

    def predict(self, path: Path | str, probabilities: bool = False) -> np.ndarray:
        """Return the labels of a volume, in the axes and on the grid of its file: NIfTI's (i, j, k), NumPy's (D, H, W).

        path: a volume's or a clip's file; or a folder with one case, whose channels are case_0000, case_0001, ...
        probabilities: return those of all classes, (..., K) float32, in place of the labels. A run that classifies
        returns the classes' probabilities (K,) in any case. Raises ValueError or OSError for a file that cannot be
        read, or doesn't fit the run.
        """
        runs = [replace(run, config=_stopping(run.config)) for run in self._networks.runs]
        opened = [open_folder(run, path) for run in runs]
        data, members = opened[0], self._networks.members(opened)
        case, *more = data.cases("all")
        if more:
            raise ValueError(f"{path}: holds {1 + len(more)} cases; predict one file at a time, or run evaluate.py")
        return room_of(self.config).predict_one(members, data, case, self.config, self._temperature, probabilities)

    def predict_array(self, volume: np.ndarray, spacing_mm: Sequence[float], probabilities: bool = False) -> np.ndarray:
        """Return what `predict` does of a file that holds the volume, (D, H, W) or (D, H, W, C), on its grid.

        D runs inferior to superior, H posterior to anterior, W left to right; spacing_mm is in this order too. The
        array passes through a temporary file.
        """
        if self.config.data.clip is not None:
            raise ValueError("predict_array takes volumes, and this run sees clips; predict the clip's file")
        if np.ndim(volume) not in (3, 4) or np.shape(spacing_mm) != (3,):
            raise ValueError(
                "predict_array expects a volume (D, H, W) or (D, H, W, C) and three numbers as its spacing_mm; got "
                f"arrays of shapes {np.shape(volume)} and {np.shape(spacing_mm)}"
            )
        with TemporaryDirectory() as folder:
            path = Path(folder) / "array.npz"
            np.savez(path, volume=volume, spacing_mm=spacing_mm)
            return self.predict(path, probabilities)


@dataclass(frozen=True)
class Networks:
    """The networks of one or several runs, whose mean is predicted, or that of draws of the only one."""

    runs: list[Trained]  # the first one's config says how to predict; see `join_config`
    models: list[nn.Module]
    checkpoint: dict[str, Any]  # what metrics.json says of the first one's weights
    prediction: dict[str, Any]  # and of what is predicted: {"kind": "plain" | "mc_dropout" | "ensemble", ...}
    precision: str | list[str]
    _predict: list[Predict]

    def members(self, opened: Sequence[Any]) -> list[Member]:
        """Whose mean is predicted: opened are the data as each of the runs prepares them."""
        first, *others = self._predict
        if self.prediction["kind"] == "mc_dropout":
            hold = partial(held_masks, self.models[0])
            return draw_members(first, hold, self.prediction["samples"], self.prediction["seed"])
        more = zip(others, opened[1:], self.runs[1:], strict=True)
        return [Member(first), *(Member(predict, data=data, config=run.config) for predict, data, run in more)]


def load_networks(runs: Sequence[Trained], mc_dropout: int | None = None, group: Group = ALONE) -> Networks:
    """Build the runs' networks with their checkpoints' weights, in evaluation mode.

    runs: as `join_runs` returns them. Raises ValueError where there is nothing to draw from.
    """
    if mc_dropout is not None and (not 2 <= mc_dropout <= _MOST_DRAWS or len(runs) > 1):
        raise ValueError(
            f"--mc-dropout N needs 2 to {_MOST_DRAWS:,} draws and exactly one run; several runs are an ensemble"
        )
    precision = PredictionPrecision(group)
    models, facts, predict = [], [], []
    for run in runs:
        seen = run.statistics
        require_prediction_fits(run.config, seen["num_channels"], len(seen["class_names"]))
        model, of_weights = load_model(run)
        models.append(model)
        facts.append(of_weights)
        predict.append(make_predict(model, precision.of(run.config), run.config.train.compile))
    prediction: dict[str, Any] = {"kind": "plain"}
    if mc_dropout is not None:
        layers = [row for row in dropout_table(models[0]) if row.rate > 0]
        if not layers:
            place = "(model.args.dropout)"
            raise ValueError(f"--mc-dropout: {runs[0].run.path} has no dropout layer with a rate above 0 {place}")
        seed, table = runs[0].config.evaluate.seed, [astuple(row) for row in layers]
        prediction = {"kind": "mc_dropout", "samples": mc_dropout, "seed": seed, "dropout": table}
    elif len(runs) > 1:
        prediction = {"kind": "ensemble", "members": [str(run.run.path) for run in runs]}
    return Networks(list(runs), models, facts[0], prediction, precision.summary, predict)


def join_runs(runs: Sequence[Trained]) -> list[Trained]:
    """Return the runs, the data of all looked for where the first one's are.

    Raises ValueError as `join_config` does.
    """
    first, *others = runs
    joined = (replace(run, config=join_config(first.config, run.run, run.config, first.run)) for run in others)
    return [first, *joined]


def load_model(run: Trained) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with the checkpoint's weights, in evaluation mode, and what metrics.json says about them."""
    build = partial(_build_model, run)
    if run.checkpoint.is_file():
        model, facts = load_packed(run.checkpoint, build)
        return model.eval(), facts
    state, model = read_state(run.checkpoint), build()
    weights = load_weights(model, run.checkpoint, run.config.evaluate.weights)
    model.eval()
    return model, {"step": state["step"], "weights": weights, "path": str(run.checkpoint.resolve())}


def export(run: Trained, path: Path | str, licence: str | None = None) -> str:
    """Pack the run into the new file `path`; return what is in it. Raises ValueError where it cannot be packed."""
    if isinstance(run.run, PackedRun):
        raise ValueError(f"{run.run.pack.path} is a pack already: copy it")
    model = _build_model(run)
    return describe(export_run(path, run.run, run.config, model, run.checkpoint, run.checkpoint_name, licence))


def open_folder(run: Trained, path: Path | str) -> Any:
    """Files without labels, a folder's or one, as the run prepares them."""
    return open_images(path, run.config, run.statistics)


def _build_model(run: Trained) -> nn.Module:
    facts, model = run.statistics, run.config.model
    return build_model(model.name, model.args, facts["num_channels"], len(facts["class_names"]))


def _stopping(config: Config) -> Config:
    """Return the config under which a bad case is an error."""
    return config.model_copy(update={"data": config.data.model_copy(update={"on_error": "stop"})})
