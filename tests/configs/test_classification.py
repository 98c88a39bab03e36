"""What a classification's loss, score and mixup may be."""

from typing import Any

import pytest

from configs import ConfigError
from configs.schema.load import apply_overrides
from engine.config import check_config

SEVERAL = "data.columns.label=[x, y]"


def check(*overrides: str, task: str = "classification") -> Any:
    tree = {"name": "x", "task": task, "data": {"root": ".", "source": "csv"}, "train": {"steps": 1}}
    if task == "classification":
        tree["model"] = {"name": "cnn3d"}
    return check_config(apply_overrides(tree, list(overrides)), "test")


def test_loss_and_score_follow_the_task_and_what_is_set_is_kept() -> None:
    config = check()
    assert (config.loss.name, config.checkpoint.metric) == ("cross_entropy", "auc")
    assert check(SEVERAL).loss.name == "binary_cross_entropy"
    config = check(task="segmentation")
    assert (config.loss.name, config.checkpoint.metric) == ("dice_ce", "dice.mean")
    config = check("loss={name: focal, class_weights: balanced}", "checkpoint.metric=accuracy", "train.mixup_alpha=0.2")
    assert (config.loss.name, config.loss.class_weights) == ("focal", "balanced")
    assert (config.checkpoint.metric, config.train.mixup_alpha) == ("accuracy", 0.2)
    assert check("data.class_names=[a, b]", "loss.class_weights=balanced").loss.class_weights == "balanced"


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("segmentation", ["train.mixup_alpha=0.2"], r"train\.mixup_alpha is for task=classification; set it to 0"),
        ("segmentation", ["loss.class_weights=balanced"], r"class_weights=balanced is for task=classification; give"),
        ("segmentation", ["loss.name=binary_cross_entropy"], r"binary_cross_entropy is for task=classification"),
        ("classification", ["loss.name=dice"], r"loss\.name=dice is for label volumes; use cross_entropy or focal"),
        (
            "classification",
            ["loss.name=binary_cross_entropy"],
            r"does not fit labels that exclude each other .*columns\.label: None\); use cross_entropy or focal",
        ),
        (
            "classification",
            [SEVERAL, "loss.name=focal"],
            r"loss\.name=focal does not fit labels that may coincide .*; use binary_cross_entropy",
        ),
        ("classification", [SEVERAL, "loss.class_weights=balanced"], r"balanced needs labels that exclude each other"),
        ("classification", ["checkpoint.metric=log_loss"], r"log_loss: lower is better; set checkpoint\.mode="),
        ("classification", ["loss.class_weights=even"], r"loss\.class_weights"),
        ("classification", ["loss=3"], r"loss"),
    ],
)
def test_mistakes(task: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(*overrides, task=task)
