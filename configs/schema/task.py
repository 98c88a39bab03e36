"""The tasks, and what each asks of a config and says of itself: `Config.kind` is the one that `task` names.

Nothing else compares a task: what depends on it is asked of this object, or chosen from a table by `task` where
objects are built. `tests/test_one_task_decision.py` enforces it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from configs.regions import regions_of_files
from configs.schema.choices import Choices
from configs.schema.data import DataConfig
from configs.schema.model import ModelConfig
from configs.schema.train import CheckpointConfig, EvaluateConfig, LossArgs, TrainConfig
from configs.schema.types import Triple


class InputSize(NamedTuple):
    """What the network gets at a time, with the keys that decide it."""

    size_key: str
    size: Triple  # (D, H, W)
    batch_key: str
    batch: int


class Sections(Protocol):
    """The sections of a config that a task looks at."""

    choices: ClassVar[Choices]
    data: DataConfig
    model: ModelConfig
    loss: LossArgs
    train: TrainConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig


class Task(Protocol):
    """What follows from a task."""

    does: ClassVar[str]  # what a network does, in words
    output: ClassVar[str]  # and what comes of it
    measures_surfaces: ClassVar[bool]  # whether scores are of surfaces, too
    own_statistic: ClassVar[str]  # what statistics.json holds under this task alone

    def with_defaults(self, tree: dict[str, Any], choices: Choices) -> dict[str, Any]:
        """Return the unchecked config with what the task fills in."""

    def check_input(self, config: Sections) -> None:
        """Raise ValueError unless source, network and preparation are those of the task."""

    def check_loss(self, config: Sections) -> None:
        """Raise ValueError unless loss and score are those of the task."""

    def predicted(self, config: Sections) -> InputSize:
        """Return what prediction takes at a time."""


class Segmentation:
    """A class for each voxel, or regions that may overlap (`data.regions`)."""

    does: ClassVar[str] = "segments volumes"
    output: ClassVar[str] = "A label volume for each case, on the grid of its own file"
    measures_surfaces: ClassVar[bool] = True
    own_statistic: ClassVar[str] = "normalisation"

    def with_defaults(self, tree: dict[str, Any], choices: Choices) -> dict[str, Any]:
        """Several label columns, which hold a file of 0 and 1 for each region, as `data.regions`."""
        columns, data = _label_columns(tree), tree.get("data")
        are_names = len(columns) > 1 and all(isinstance(name, str) for name in columns)
        if not are_names or not isinstance(data, dict) or data.get("regions") is not None:
            return tree
        return {**tree, "data": {**data, "regions": regions_of_files(columns)}}

    def check_input(self, config: Sections) -> None:
        data, name, chosen = config.data, config.model.name, config.choices.sources[config.data.source]
        if not chosen.volumes or data.clip is not None:
            what = "data.clip" if chosen.volumes else f"data.source={data.source}"
            raise ValueError(f"{what} gives a class for each case; set task=classification")
        if not config.model.args.segments:
            known = " or ".join(name for name, args in config.choices.networks.items() if args.segments)
            raise ValueError(f"model.name={name} classifies; use {known}, or set task=classification")
        if data.balance != "none":
            raise ValueError("data.balance is for task=classification; see data.foreground_rate")
        several = data.columns.label if isinstance(data.columns.label, tuple) else ()
        if len(several) > 1 and list((data.regions or {}).values()) != list(regions_of_files(several).values()):
            raise ValueError(
                "data.regions are of one label file with several values, and data.columns.label names a file of 0 and "
                "1 for each region; leave data.regions out, or give one column"
            )

    def check_loss(self, config: Sections) -> None:
        loss, choices = config.loss, config.choices
        if config.train.mixup_alpha > 0:
            raise ValueError("train.mixup_alpha is for task=classification; set it to 0")
        if loss.class_weights == "balanced":
            raise ValueError("loss.class_weights=balanced is for task=classification; give one weight a class")
        if "voxels" not in choices.losses[loss.name].targets:
            known = choices.losses_for("voxels", "class")[0]
            raise ValueError(f"loss.name={loss.name} is for task=classification; use {known}")
        if config.data.regions is not None:
            _check_loss_of_regions(config, config.data.regions)

    def predicted(self, config: Sections) -> InputSize:
        window, batch = config.evaluate.window_size_voxels, config.evaluate.window_batch
        key = "evaluate.window_size_voxels" if window else "data.patch_size_voxels"
        return InputSize(key, window or config.data.patch_size_voxels, "evaluate.window_batch", batch)


class Classification:
    """A class for each case, or several."""

    does: ClassVar[str] = "classifies volumes"
    output: ClassVar[str] = "The probability of every class"
    measures_surfaces: ClassVar[bool] = False
    own_statistic: ClassVar[str] = "multi_label"

    def with_defaults(self, tree: dict[str, Any], choices: Choices) -> dict[str, Any]:
        """Fill in network, loss and score where the config names none: the first ones registered for classes."""
        loss, checkpoint = tree.get("loss", {}), tree.get("checkpoint", {})
        if not isinstance(loss, dict) or not isinstance(checkpoint, dict):
            return tree
        known = choices.losses_for("classes" if _label_columns(tree) else "class")
        loss = {"name": known[0], **loss}
        networks = [name for name, args in choices.networks.items() if not args.segments]
        tree = {"model": {"name": networks[0]}, **tree} if networks else tree
        return {**tree, "loss": loss, "checkpoint": {"metric": "auc", **checkpoint}}

    def check_input(self, config: Sections) -> None:
        data, sources = config.data, config.choices.sources
        chosen = sources[data.source]
        if not chosen.classes:
            *some, last = sorted((n for n in sources if sources[n].classes), key=lambda n: sources[n].volumes)
            raise ValueError(
                f"data.source={data.source} gives label volumes; task=classification takes {', '.join(some)} or {last}"
            )
        if config.model.args.segments:
            known = ", ".join([name for name, args in config.choices.networks.items() if not args.segments][:3])
            raise ValueError(f"model.name={config.model.name} segments; task=classification needs {known}, ...")
        if data.normalisation == "ct":
            raise ValueError("data.normalisation=ct needs label volumes; use percentile or zscore")
        if not chosen.clips and data.clip is not None:
            raise ValueError(f"data.clip is for video; data.source={data.source} holds volumes, leave it out")
        for key in ("label_map", "regions"):
            if getattr(data, key) is not None:
                raise ValueError(f"data.{key} is for label volumes; with task=classification leave it out")

    def check_loss(self, config: Sections) -> None:
        loss, checkpoint, choices = config.loss, config.checkpoint, config.choices
        targets = choices.losses[loss.name].targets
        several, may_coincide = isinstance(config.data.columns.label, tuple), "classes" in targets
        # Where the source says itself whether labels may coincide, train.py checks it.
        if several != may_coincide and not choices.sources[config.data.source].tells_labels:
            known = " or ".join(choices.losses_for("classes" if several else "class"))
            raise ValueError(
                f"loss.name={loss.name} does not fit labels that {'may coincide' if several else 'exclude each other'} "
                f"(data.columns.label: {config.data.columns.label}); use {known}"
            )
        if not {"class", "classes"} & set(targets):
            known = " or ".join(choices.losses_for("class"))
            raise ValueError(f"loss.name={loss.name} is for label volumes; use {known}")
        if may_coincide and loss.class_weights == "balanced":
            raise ValueError(
                "loss.class_weights=balanced needs labels that exclude each other; give one weight a class"
            )
        if checkpoint.metric == "log_loss" and checkpoint.mode == "max":
            raise ValueError("checkpoint.metric=log_loss: lower is better; set checkpoint.mode=min")

    def predicted(self, config: Sections) -> InputSize:
        return trained(config)


TASKS: Mapping[str, Task] = {"segmentation": Segmentation(), "classification": Classification()}  # by `task`


def trained(config: Sections) -> InputSize:
    """Return what training takes at a time."""
    key = "data.patch_size_voxels" if config.data.clip is None else "data.clip"
    return InputSize(key, config.data.input_size, "train.batch_size", config.train.batch_size)


def _label_columns(tree: dict[str, Any]) -> tuple[Any, ...]:
    """Return the label columns that an unchecked config lists; none where it names one."""
    columns = tree["data"].get("columns") if isinstance(tree.get("data"), dict) else None
    label = columns.get("label") if isinstance(columns, dict) else None
    return tuple(label) if isinstance(label, list | tuple) else ()


def _check_loss_of_regions(config: Sections, regions: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError unless the loss is one of regions, and no region holds the ignored label."""
    loss, choices = config.loss, config.choices
    if "regions" not in choices.losses[loss.name].targets:
        known = " or ".join(choices.losses_for("regions"))
        raise ValueError(f"loss.name={loss.name} does not take data.regions; use {known}")
    if getattr(loss, "include_background", False):
        raise ValueError("loss.include_background: data.regions have no background; set it to false")
    if isinstance(loss.class_weights, tuple) and len(loss.class_weights) != len(regions):
        raise ValueError(f"loss.class_weights has {len(loss.class_weights)} entries; data.regions has {len(regions)}")
    for name, values in regions.items():
        if loss.ignore_label in values:
            raise ValueError(f"data.regions.{name} holds loss.ignore_label={loss.ignore_label}; take it out")
