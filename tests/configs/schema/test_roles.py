"""What each config key is there for, and what follows from it."""

from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, Field

from configs import Config
from configs.schema.data import DataConfig
from configs.schema.roles import (
    Rule,
    is_packed,
    is_within,
    keys_of,
    keys_where,
    may_change_in_a_sweep,
    may_change_in_evaluation,
    may_change_on_resume,
    may_differ_between_runs,
    pick,
    says_which_data,
    shapes_the_input,
    tells_runs_apart,
)
from configs.schema.train import EvaluateConfig
from configs.schema.types import Key, Section
from configs.schema.weights import InitConfig
from engine.config import config_class

CHOSEN = ("model", "loss")  # the networks and losses declare the keys
# Every other key. A new one is entered here: does it decide the weights? Could it hold a path or a case's name?
ROLES = {
    "place": {
        "": "name",
        "run": "dir",
        "data": "root",
        "data.columns": "folder",
        "data.cache": "folder",
    },
    "runtime": {
        "": "resume ops threads memory_limit_gb",
        "data.cache": "limit_gb memory_gb",
        "data": "workers prefetch_batches",
        "train": "log_every_steps compile",
        "checkpoint": "every_steps keep",
        "distributed": "timeout_seconds",
    },
    "evaluation": {
        "data": "region_values",
        "evaluate": (
            "overlap window_size_voxels window_batch validation_overlap validation_cases cases mirror_axes "
            "nsd_tolerance_mm weights bootstrap_samples save_predictions save_probabilities calibration "
            "temperature seed"
        ),
    },
    "result": {
        "": "task seed",
        "data": (
            "source images labels train_labels dicom_series class_names label_map regions channels fold spacing_mm "
            "interpolation crop_nonzero normalisation percentiles sampling patch_size_voxels balance foreground_rate "
            "on_error"
        ),
        "data.columns": "image label id split fold group start end splits",
        "data.split": "kind folds ratio seed by_group allow_copies train val test",
        "data.clip": (
            "frames frame_rate image_frame_rate stride short_side_pixels crop_pixels short single_frame input colour "
            "mean std clips crops"
        ),
        "data.clip.augment": "flip zoom aspect speed brightness contrast saturation",
        "data.augment.flip": "probability axes",
        "data.augment.rotate": "probability degrees",
        "data.augment.scale": "probability factor per_axis",
        "data.augment.elastic": "probability displacement_mm control_spacing_mm",
        "data.augment.bias_field": "probability strength order",
        "data.augment.noise": "probability std",
        "data.augment.blur": "probability sigma_voxels",
        "data.augment.brightness": "probability factor",
        "data.augment.contrast": "probability factor",
        "data.augment.low_resolution": "probability factor axes",
        "data.augment.gamma": "probability gamma invert",
        "data.augment.channel_drop": "probability",
        "init": "from checkpoint weights input head allow_missing allow_unused",
        "freeze": "patterns thaw_at_step norm_statistics",
        "optim": (
            "name learning_rate weight_decay betas momentum schedule poly_power final_factor warmup_steps "
            "clip_norm ema_decay rate_factors decay_to_start"
        ),
        "train": (
            "steps epochs batch_size accumulate precision validate_every_steps early_stop_validations "
            "recalibrate_norms mixup_alpha"
        ),
        "checkpoint": "metric mode",
        "distributed": "batch_norm",
        "sweep": "grid zip cells seeds folds baseline train_cases order_seed",
    },
}


def test_every_key_has_the_role_that_was_decided_on() -> None:
    found: dict[str, dict[str, str]] = {role: {} for role in ROLES}
    for path, key in keys_of(config_class()).items():
        if path.split(".")[0] in CHOSEN:
            assert key == Key()
            continue
        section, _, name = path.rpartition(".")
        names = found[key.role].get(section, "")
        found[key.role][section] = f"{names} {name}".strip()
    assert found == ROLES


@pytest.mark.parametrize(
    ("section", "tree"),
    [(DataConfig, {"source": "msd", "root": "x", "clip": {}}), (InitConfig, {"from": "x"}), (EvaluateConfig, {})],
)
def test_each_key_of_a_resolved_config_is_one_that_is_declared(section: type[BaseModel], tree: dict[str, Any]) -> None:
    resolved = section.model_validate(tree).model_dump(by_alias=True)
    assert pick(resolved, keys_of(section)) == resolved


RUNTIME = (
    "ops threads memory_limit_gb data.cache data.workers data.prefetch_batches train.log_every_steps train.compile "
    "checkpoint.every_steps checkpoint.keep distributed.timeout_seconds"
)
BUDGET = "train.steps train.epochs train.validate_every_steps train.early_stop_validations"
DATA = (
    "data.source data.root data.images data.labels data.train_labels data.dicom_series data.columns data.class_names "
    "data.label_map data.clip.image_frame_rate"
)


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        (
            may_change_on_resume,
            f"name resume run data.root data.columns.folder data.region_values {RUNTIME} {BUDGET} train.precision "
            "evaluate",
        ),
        (may_change_in_evaluation, f"{DATA} data.region_values {RUNTIME} train.precision evaluate"),
        (may_change_in_a_sweep, f"name resume run data.root data.columns.folder {RUNTIME}"),
        (may_differ_between_runs, f"name resume run data.root data.columns.folder {RUNTIME} seed data.fold sweep"),
        (tells_runs_apart, "name seed resume run data.fold sweep"),
        (says_which_data, DATA),
        (
            shapes_the_input,
            "data.spacing_mm data.interpolation data.crop_nonzero data.normalisation data.percentiles data.sampling "
            "data.patch_size_voxels data.clip.frames data.clip.frame_rate data.clip.stride data.clip.short_side_pixels "
            "data.clip.crop_pixels data.clip.short data.clip.single_frame data.clip.input data.clip.colour "
            "data.clip.mean data.clip.std",
        ),
        (
            lambda key: not is_packed(key),
            f"name resume run init freeze sweep data.root data.images data.labels data.train_labels data.dicom_series "
            f"data.columns data.split data.fold data.on_error optim.decay_to_start evaluate.cases {RUNTIME}",
        ),
    ],
)
def test_what_follows_from_the_roles(rule: Rule, keys: str) -> None:
    assert sorted(keys_where(config_class(), rule)) == sorted(keys.split())


def types_in(annotation: object) -> list[object]:
    return [annotation, *(inner for argument in get_args(annotation) for inner in types_in(argument))]


def test_no_packed_key_holds_a_path() -> None:
    def paths(model: type[BaseModel], place: str = "") -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            for inner in types_in(field.annotation):
                if inner is Path:
                    found.add(f"{place}{field.alias or name}")
                elif isinstance(inner, type) and not get_args(inner) and issubclass(inner, BaseModel):
                    found |= paths(inner, f"{place}{field.alias or name}.")
        return found

    assert paths(Config) == {"run.dir", "data.root", "data.columns.folder", "data.cache.folder", "init.from"}
    assert not any(is_within(path, keys_where(config_class(), is_packed)) for path in paths(config_class()))


class Empty(Section):
    pass


class Inner(Section):
    first: int = 1
    second: Annotated[int, Field(ge=0), Key("runtime")] = 2
    named: int = Field(3, alias="from")


class Outer(Section):
    whole: Annotated[Inner | None, Key("evaluation")] = None
    plain: Inner = Inner()
    choice: Annotated[Empty | Inner, Key("place")] = Inner()
    empty: Empty = Empty()


def test_a_key_has_the_role_of_its_section_unless_it_says_its_own() -> None:
    assert {path: key.role for path, key in keys_of(Outer).items()} == {
        "whole.first": "evaluation",
        "whole.second": "runtime",
        "whole.from": "evaluation",
        "plain.first": "result",
        "plain.second": "runtime",
        "plain.from": "result",
        "choice": "place",
        "empty": "result",
    }
    assert list(keys_where(Outer, lambda key: key.role in ("evaluation", "runtime"))) == ["whole", "plain.second"]


def test_what_lies_below_a_key_is_within_it_and_picked_keys_keep_their_place() -> None:
    assert is_within("data.cache.folder", ("data.cache",))
    assert is_within("data.cache", ("data.cache",))
    assert not is_within("data.cache_folder", ("data.cache",))
    assert not is_within("data", ("data.cache",))
    tree = {"a": {"b": {"c": 1, "d": 2}, "e": None}, "f": 3}
    assert pick(tree, ("a.b.c", "a.e", "a.e.g", "a.h", "i.j")) == {"a": {"b": {"c": 1}, "e": None}}
    assert pick(tree, ("a.b", "f")) == {"a": {"b": {"c": 1, "d": 2}}, "f": 3}
