"""In which precision a run trains and an evaluation predicts."""

import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from configs import Config
from engine.config import check_config, config_class
from engine.distributed.group import ALONE, Group
from engine.runs.precision import PredictionPrecision, settle, settle_training
from engine.runs.run_folder import RunFolder
from tests.conftest import NO_BFLOAT16
from tests.engine.doubles import tiny_config


@pytest.fixture(autouse=True)
def _listen(caplog) -> None:
    caplog.set_level(logging.INFO, logger="mlx_volumes")


def asking(folder, precision: str, **sections) -> Config:
    return tiny_config(folder, train={"precision": precision}).model_copy(update=sections)


def settled(folder, precision: str, **sections) -> str:
    return settle_training(asking(folder, precision, **sections), ALONE).train.precision


def refused(text: str) -> AbstractContextManager[object]:
    return pytest.raises(ValueError, match=f"^{re.escape(text)}$")


class Others(Group):
    """This process, and others that lack what the texts say."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.size, self.texts = 1 + len(texts), texts

    def gather_texts(self, text: str) -> list[str]:
        return [text, *self.texts]


def test_auto_follows_the_device_and_a_name_does_not() -> None:
    assert settle("auto", None) == settle("bfloat16", None) == "bfloat16"
    assert settle("auto", "it cannot") == settle("float32", "it cannot") == settle("float32", None) == "float32"
    with refused("train.precision=bfloat16: it cannot; use train.precision=auto, which is float32 here"):
        settle("bfloat16", "it cannot")


def test_what_it_became_is_logged(tmp_path, caplog, native_bfloat16) -> None:
    assert (settled(tmp_path, "auto"), settled(tmp_path, "float32")) == ("bfloat16", "float32")
    assert caplog.messages == [
        "precision: bfloat16, which this device computes natively",
        "precision: float32, as asked",
    ]


def test_float32_is_logged_with_its_reason(tmp_path, caplog, no_bfloat16) -> None:
    assert settled(tmp_path, "auto") == "float32"
    assert caplog.messages == [f"precision: float32, {NO_BFLOAT16}"]


def test_all_processes_train_in_what_each_of_them_has(tmp_path, caplog, native_bfloat16) -> None:
    group = Others("", "it has none")
    assert settle_training(asking(tmp_path, "auto"), group).train.precision == "float32"
    assert caplog.messages == ["precision: float32, rank 2: it has none"]
    assert settle_training(asking(tmp_path, "auto"), Others("", "")).train.precision == "bfloat16"
    with refused("train.precision=bfloat16: rank 2: it has none; use train.precision=auto, which is float32 here"):
        settle_training(asking(tmp_path, "bfloat16"), group)


@pytest.mark.parametrize("own", ["float32", "bfloat16"])
def test_a_resumed_run_keeps_its_own(tmp_path, own: str, caplog, native_bfloat16) -> None:
    RunFolder.create(asking(tmp_path, own))
    assert settled(tmp_path, "auto", resume=True) == own
    assert caplog.messages == [f"precision: {own}, its own"]
    other = {"float32": "bfloat16", "bfloat16": "float32"}[own]
    with refused(
        f"{tmp_path}/tiny: --resume with train.precision={other}, but the run trains in {own}; use "
        "train.precision=auto, which keeps it, or start a new run under another name"
    ):
        settled(tmp_path, other, resume=True)


def test_a_run_in_bfloat16_stops_where_there_is_none_and_names_the_override(tmp_path, no_bfloat16) -> None:
    RunFolder.create(asking(tmp_path, "bfloat16"))
    for asked in ("auto", "bfloat16"):
        with refused(
            f"{tmp_path}/tiny: it trains in bfloat16, and {NO_BFLOAT16}; continue on a device with bfloat16, "
            "or go on in float32 with train.precision=float32"
        ):
            settled(tmp_path, asked, resume=True)
    assert settled(tmp_path, "float32", resume=True) == "float32"
    assert settled(tmp_path, "auto", name="another", resume=True) == "float32"  # begins
    assert settled(tmp_path, "auto") == "float32"  # will be refused: the run exists


SWEEP = {"cells": [{"name": "a"}, {"name": "b", "loss.smooth": 1.0}], "seeds": [0]}


def test_a_sweep_that_goes_on_keeps_its_own(tmp_path, request) -> None:
    sweep = asking(tmp_path, "auto").model_dump(mode="json") | {"sweep": SWEEP}
    RunFolder(tmp_path / "tiny").path.mkdir()
    request.getfixturevalue("native_bfloat16")
    begun = settle_training(config_class().model_validate(sweep), ALONE)
    RunFolder(tmp_path / "tiny").write_config(begun)
    assert settle_training(config_class().model_validate(sweep), ALONE) == begun
    request.getfixturevalue("no_bfloat16")
    with refused(
        f"{tmp_path}/tiny: it trains in bfloat16, and {NO_BFLOAT16}; continue on a device with bfloat16, "
        "or start a new sweep under another name: all cells have one precision"
    ):
        settle_training(config_class().model_validate(sweep), ALONE)


def predictions(asked: Sequence[str], group: Group = ALONE) -> str | list[str]:
    precision = PredictionPrecision(group)
    found = [
        precision.of(check_config({"name": "x", "data": {"root": "x"}, "train": {"steps": 1, "precision": p}}, "x"))
        for p in asked
    ]
    assert precision.summary in (found, found[0])
    return precision.summary


def test_prediction_falls_back_with_one_line(caplog, no_bfloat16) -> None:
    assert predictions(["float32", "bfloat16", "bfloat16", "auto"]) == "float32"
    assert caplog.messages == [f"train.precision=bfloat16: {NO_BFLOAT16}; predicting in float32"]


def test_members_predict_in_their_own(caplog, native_bfloat16) -> None:
    assert predictions(["float32", "bfloat16", "auto"]) == ["float32", "bfloat16", "bfloat16"]
    assert predictions(["bfloat16"]) == "bfloat16"
    assert predictions(["bfloat16"], Others("it cannot")) == "float32"
    assert caplog.messages == ["train.precision=bfloat16: rank 1: it cannot; predicting in float32"]
