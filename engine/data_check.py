"""Whether a config goes together with the data that it names."""

from typing import Any

from configs import Config
from engine.classify import is_multi_label, validation_metrics


def check_fits_the_data(config: Config, data: Any) -> None:
    """Raise ValueError unless the loss fits the labels, and validation reports what decides on the best checkpoint."""
    known = ["dice.mean", *(f"dice.{name}" for name in data.class_names[1:])]
    if config.task == "classification":
        known = validation_metrics(data.class_names)
        may_coincide = bool(getattr(data, "multi_label", False))
        if is_multi_label(config) != may_coincide:
            labels = "may coincide" if may_coincide else "exclude each other"
            wanted = "binary_cross_entropy" if may_coincide else "cross_entropy or focal"
            raise ValueError(
                f"loss.name={config.loss.name} does not fit the labels of {config.data.root}, which {labels}; "
                f"use {wanted}"
            )
    if config.checkpoint.metric not in known:
        raise ValueError(f"checkpoint.metric={config.checkpoint.metric}: validation knows {', '.join(known)}")
