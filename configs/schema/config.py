"""The config of a run, whole: every option is declared once, here and in the sections it names.

What is chosen by name, and the arguments of each, is registered elsewhere: `make_config` puts it in.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from configs.schema.choices import Choices, data_section, loss_section, model_section, replaced
from configs.schema.data import DataConfig
from configs.schema.freeze import FreezeConfig
from configs.schema.init import InitConfig
from configs.schema.model import ModelConfig
from configs.schema.roles import is_within, keys_where, tells_runs_apart
from configs.schema.sweep import SweepConfig
from configs.schema.train import (
    CheckpointConfig,
    DistributedConfig,
    EvaluateConfig,
    LossArgs,
    OptimConfig,
    TrainConfig,
)
from configs.schema.types import RUNTIME, Count, Key, Positive, Section


class RunConfig(Section):
    dir: Path = Path("runs")  # the run's folder is dir/name


class Config(Section):
    """One run. Paths are relative to the working folder."""

    choices: ClassVar[Choices] = Choices()

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*(/[A-Za-z0-9][A-Za-z0-9._=,+-]*)*$"),
        Key("place", in_sweeps="a run is named by its cell and seed"),
    ]
    task: Literal["segmentation", "classification"] = "segmentation"
    seed: Annotated[int, Field(ge=0), Key(in_sweeps="use sweep.seeds")] = 0
    resume: Annotated[bool, Key("runtime", in_sweeps="finished runs are kept, others resumed")] = False
    ops: Annotated[Literal["auto", "mlx", "onednn"], RUNTIME] = "auto"  # see docs/cpu.md
    threads: Annotated[Count | None, RUNTIME] = None  # of the CPU operators; null: all cores of the affinity mask
    # That MLX may take; null: a share of the device's, see docs/devices.md
    memory_limit_gb: Annotated[Positive | None, RUNTIME] = None
    run: Annotated[RunConfig, Key("place", in_sweeps="all runs lie in the sweep's folder")] = RunConfig()
    data: DataConfig
    model: ModelConfig
    init: Annotated[InitConfig | None, Key(packed=False)] = None  # null: weights drawn under the seed
    freeze: Annotated[FreezeConfig | None, Key(packed=False)] = None  # parameters that are not trained, or only later
    loss: LossArgs
    optim: OptimConfig = OptimConfig()
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: Annotated[EvaluateConfig, Key("evaluation")] = EvaluateConfig()
    distributed: DistributedConfig = DistributedConfig()
    # Many runs: see docs/ablations.md
    sweep: Annotated[SweepConfig | None, Key(in_sweeps="a sweep holds no other", packed=False)] = None

    @property
    def run_folder(self) -> Path:
        return self.run.dir / self.name

    @property
    def classes_may_coincide(self) -> bool:
        """Whether a case may be of several classes: the loss takes each for a question of its own."""
        return "classes" in self.choices.losses[self.loss.name].targets

    @model_validator(mode="before")
    @classmethod
    def _unnamed_ones_are_the_first(cls, tree: Any) -> Any:
        for key, named in (("model", cls.choices.networks), ("loss", cls.choices.losses)):
            section = tree.get(key) if isinstance(tree, dict) else None
            if isinstance(section, dict) and "name" not in section:
                tree = {**tree, key: {"name": next(iter(named)), **section}}
        return tree

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_classification(cls, tree: Any) -> Any:
        """The loss and the score that decide a classification, where the config names none."""
        if not isinstance(tree, dict) or tree.get("task") != "classification":
            return tree
        loss, checkpoint = tree.get("loss", {}), tree.get("checkpoint", {})
        if not isinstance(loss, dict) or not isinstance(checkpoint, dict):
            return tree
        known = cls.choices.losses_for("classes" if _labels_may_coincide(tree) else "class")
        loss = {"name": known[0], **loss}
        return {**tree, "loss": loss, "checkpoint": {"metric": "auc", **checkpoint}}

    @model_validator(mode="after")
    def _cells_are_told_apart_by_the_sweep(self) -> "Config":
        for path in self.sweep.paths() if self.sweep else ():
            for settled, key in keys_where(type(self), tells_runs_apart).items():
                if is_within(path, (settled,)):
                    raise ValueError(f"sweep: {path} cannot be set by a cell: {key.in_sweeps}")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> "Config":
        """Source, network and preparation are those of the task."""
        source, name, sources = self.data.source, self.model.name, self.choices.sources
        networks, chosen = self.choices.networks.items(), sources[source]
        if self.task == "segmentation":
            if not chosen.volumes or self.data.clip is not None:
                what = "data.clip" if chosen.volumes else f"data.source={source}"
                raise ValueError(f"{what} gives classes of whole cases; set task=classification")
            if not self.model.args.segments:
                known = " or ".join(name for name, args in networks if args.segments)
                raise ValueError(f"model.name={name} classifies; use {known}, or set task=classification")
            if self.data.balance != "none":
                raise ValueError("data.balance is for task=classification; see data.foreground_rate")
            return self
        if not chosen.classes:
            *some, last = sorted((n for n in sources if sources[n].classes), key=lambda n: sources[n].volumes)
            raise ValueError(
                f"data.source={source} gives label volumes; task=classification takes {', '.join(some)} or {last}"
            )
        if self.model.args.segments:
            known = ", ".join([name for name, args in networks if not args.segments][:3])
            raise ValueError(f"model.name={name} segments; task=classification needs {known}, ...")
        if self.data.normalisation == "ct":
            raise ValueError("data.normalisation=ct measures label volumes; use percentile or zscore")
        if not chosen.clips and self.data.clip is not None:
            raise ValueError(f"data.clip is for video; data.source={source} holds volumes, leave it out")
        return self

    @model_validator(mode="after")
    def _loss_and_score_fit_the_task(self) -> "Config":
        loss, checkpoint, choices = self.loss, self.checkpoint, self.choices
        targets = choices.losses[loss.name].targets
        if self.task == "segmentation":
            if self.train.mixup_alpha > 0:
                raise ValueError("train.mixup_alpha is for task=classification; set it to 0")
            if loss.class_weights == "balanced":
                raise ValueError("loss.class_weights=balanced is for task=classification; give one weight a class")
            if "voxels" not in targets:
                known = choices.losses_for("voxels", "class")[0]
                raise ValueError(f"loss.name={loss.name} is for task=classification; use {known}")
            return self
        several = isinstance(self.data.columns.label, tuple)
        # Where the source says itself whether labels may coincide, train.py checks it.
        if several != self.classes_may_coincide and not choices.sources[self.data.source].tells_labels:
            wanted = " or ".join(choices.losses_for("classes" if several else "class"))
            raise ValueError(
                f"loss.name={loss.name} does not fit labels that {'may coincide' if several else 'exclude each other'} "
                f"(data.columns.label: {self.data.columns.label}); use {wanted}"
            )
        if not {"class", "classes"} & set(targets):
            known = " or ".join(choices.losses_for("class"))
            raise ValueError(f"loss.name={loss.name} is for label volumes; use {known}")
        if self.classes_may_coincide and loss.class_weights == "balanced":
            raise ValueError(
                "loss.class_weights=balanced needs labels that exclude each other; give one weight a class"
            )
        if checkpoint.metric == "log_loss" and checkpoint.mode == "max":
            raise ValueError("checkpoint.metric=log_loss is the better the lower; set checkpoint.mode=min")
        return self

    @model_validator(mode="after")
    def _patches_fit_the_model(self) -> "Config":
        strides, levels = self.model.args.total_stride(), self.model.args.downsamplings
        sizes = {"data.patch_size_voxels": self.data.patch_size_voxels}
        if self.evaluate.window_size_voxels:
            sizes["evaluate.window_size_voxels"] = self.evaluate.window_size_voxels
        for key, size in sizes.items():
            for axis, (voxels, stride) in enumerate(zip(size, strides, strict=True)):
                if voxels % stride:
                    lower = voxels // stride * stride
                    choices = f"{lower} or {lower + stride}" if lower else f"{stride}"
                    raise ValueError(
                        f"{key}[{axis}]={voxels} must be divisible by {stride} "
                        f"(model {self.model.name} has {levels} downsamplings); use {choices}"
                    )
        return self

    @model_validator(mode="after")
    def _mirrored_axes_are_trained(self) -> "Config":
        flip, clip = self.data.augment.flip, self.data.clip
        trained = set(flip.axes) if flip.probability > 0 else set()
        if clip is not None:
            trained = {2} if clip.augment.flip > 0 else set()
        for axis in self.evaluate.mirror_axes:
            if axis not in trained:
                raise ValueError(
                    f"evaluate.mirror_axes holds {axis}, which training does not flip "
                    f"(data.augment.flip: probability {flip.probability}, axes {list(flip.axes)}); leave it out"
                )
        return self

    @model_validator(mode="after")
    def _mapped_labels_are_classes(self) -> "Config":
        names, label_map = self.data.class_names, self.data.label_map
        if label_map is None or names is None:
            return self
        if self.task == "classification":
            raise ValueError("data.label_map is for label volumes; with task=classification leave it out")
        for value, label in label_map.items():
            if not 0 <= label < len(names) and label != self.loss.ignore_label:
                raise ValueError(
                    f"data.label_map[{value}]={label}: data.class_names has {len(names)} classes, 0 to {len(names) - 1}"
                )
        return self

    @model_validator(mode="after")
    def _a_start_to_decay_to(self) -> "Config":
        if self.optim.decay_to_start is not None and self.init is None:
            raise ValueError("optim.decay_to_start leads loaded weights back to their start; set init.from, or null it")
        return self

    @model_validator(mode="after")
    def _deep_supervision_has_levels(self) -> "Config":
        if not self.loss.supervise_coarsest and not self.model.args.supervises_levels:
            raise ValueError(
                "loss.supervise_coarsest=false is of deep supervision, and this network has one output; set "
                "model.args.deep_supervision=true, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _class_counts_agree(self) -> "Config":
        names, weights = self.data.class_names, self.loss.class_weights
        if names is not None and isinstance(weights, tuple) and len(names) != len(weights):
            raise ValueError(f"loss.class_weights has {len(weights)} entries; data.class_names has {len(names)}")
        return self


def make_config(choices: Choices) -> type[Config]:
    """Return the class of configs that may name what `choices` holds."""
    sections = {
        "data": (data_section(choices.sources, choices.changes), ...),
        "model": model_section(choices.networks),
        "loss": loss_section(choices.losses),
    }
    fields: Any = {key: replaced(Config, key, *section) for key, section in sections.items()}
    config: Any = create_model("Config", __base__=Config, __doc__=Config.__doc__, **fields)
    config.choices = choices
    made: type[Config] = config
    return made


def _labels_may_coincide(tree: dict[str, Any]) -> bool:
    """Whether an unchecked config names several label columns."""
    columns = tree["data"].get("columns") if isinstance(tree.get("data"), dict) else None
    return isinstance(columns, dict) and isinstance(columns.get("label"), list | tuple)
