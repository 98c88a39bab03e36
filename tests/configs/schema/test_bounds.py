"""Numbers far beyond use are refused by the schema, with the key and the bound."""

from typing import Any

import pytest

from configs import ConfigError, apply_overrides
from engine.config import check_config

TREE = {"name": "a", "data": {"root": "x"}, "train": {"steps": 1}}
CLIPS = {
    **TREE,
    "task": "classification",
    "data": {"root": "x", "source": "classes", "clip": {}},
    "model": {"name": "cnn3d", "args": {}},
}


@pytest.mark.parametrize(
    ("key", "value", "bound"),
    [
        ("seed", 2**200, "less than 9223372036854775808; got a whole number of 201 bits"),
        ("data.split.seed", -1, "greater than or equal to 0; got -1"),
        ("model.args.widths", [100_000, 100_000], "16384; got 100000"),
        ("model.args", {"widths": []}, "widths must name at least one level; got none"),
        ("model.args.widths", [8] * 100, "at most 16 items"),
        ("model.args.convolutions", 3000, "64; got 3000"),
        ("model.args.kernels", [[1001, 3, 3]] * 3, "64; got 1001"),
        ("data.patch_size_voxels", [2**20, 8, 8], "16384; got 1048576"),
        ("data.spacing_mm", [1e-9, 1, 1], "0.0001; got 1e-09"),
        ("data.split.folds", 10**9, "10000; got 1000000000"),
        ("data.workers", 10**6, "1024; got 1000000"),
        ("data.prefetch_batches", 10**6, "1024; got 1000000"),
        ("data.label_map", {1: 10**9}, "less than 32768; got 1000000000"),
        ("threads", 10**6, "1024; got 1000000"),
        ("memory_limit_gb", 1e300, r"1000000; got 1e\+300"),
        ("train.steps", 10**12, "1000000000; got 1000000000000"),
        ("train.batch_size", 10**9, "65536; got 1000000000"),
        ("train.accumulate", 10**9, "65536; got 1000000000"),
        ("evaluate.window_batch", 10**9, "65536; got 1000000000"),
        ("evaluate.overlap", 0.999, "0.9; got 0.999"),
        ("evaluate.mirror_axes", [2] * 30, "at most 3 items"),
        ("evaluate.bootstrap_samples", 10**9, "100000; got 1000000000"),
        ("distributed.timeout_seconds", 1e300, r"1000000; got 1e\+300"),
        ("loss.ignore_label", 10**9, "less than 32768; got 1000000000"),
        ("data.augment.blur.sigma_voxels", [1, 1e9], "1000; got 1000000000"),
        ("data.augment.scale.factor", [1e-9, 1], "0.001; got 1e-09"),
        ("data.augment.low_resolution.factor", [1, 1e9], "1000; got 1000000000"),
        ("name", "a" * 300, "at most 200 characters"),
        ("sweep", {"grid": {f"k{i}": list(range(10)) for i in range(30)}}, "a sweep has at most 10,000: set fewer"),
        ("sweep", {"cells": [{"seed": 1}], "seeds": list(range(20_000))}, "20,000 runs; a sweep has at most 10,000"),
    ],
)
def test_absurd_values(key: str, value: Any, bound: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}[^\n]*: [^\n]*{bound}"):
        check_config(apply_overrides(TREE, {key: value}), "a")


@pytest.mark.parametrize(
    ("key", "bound"), [("frames", 16384), ("stride", 16384), ("short_side_pixels", 16384), ("clips", 1000)]
)
def test_absurd_clips(key: str, bound: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.clip\.{key}: .*{bound}; got 1000000000"):
        check_config(apply_overrides(CLIPS, {f"data.clip.{key}": 10**9}), "a")
