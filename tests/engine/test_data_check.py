"""Whether a config goes together with its data."""

from types import SimpleNamespace
from typing import Any

import pytest

from configs import Config
from configs.load import check_config
from engine.data_check import check_fits_the_data


def config_of(**keys: Any) -> Config:
    tree = {"name": "x", "data": {"root": "somewhere", "patch_size_voxels": [8, 8, 8]}, "train": {"steps": 1}, **keys}
    return check_config(tree, "test")


def test_the_deciding_metric_must_be_one_of_validation() -> None:
    data = SimpleNamespace(class_names=("background", "tumour"))
    check_fits_the_data(config_of(checkpoint={"metric": "dice.tumour"}), data)
    with pytest.raises(ValueError, match=r"checkpoint\.metric=dice\.liver: validation knows dice\.mean, dice\.tumour"):
        check_fits_the_data(config_of(checkpoint={"metric": "dice.liver"}), data)
