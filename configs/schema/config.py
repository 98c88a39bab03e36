"""The config of a run, whole: every option is declared once, here and in the sections it names.

What is chosen by name, and the arguments of each, is registered elsewhere: `make_config` puts it in.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from configs.regions import held
from configs.schema.choices import Choices, data_section, loss_section, model_section, replaced
from configs.schema.data import DataConfig
from configs.schema.model import ModelConfig
from configs.schema.roles import is_within, keys_where, tells_runs_apart
from configs.schema.sweep import SweepConfig
from configs.schema.task import TASKS, Task
from configs.schema.train import (
    CheckpointConfig,
    DistributedConfig,
    EvaluateConfig,
    LossArgs,
    OptimConfig,
    TrainConfig,
)
from configs.schema.types import RUNTIME, Gigabytes, Key, Section, Seed, Threads
from configs.schema.weights import FreezeConfig, InitConfig


class RunConfig(Section):
    dir: Path = Path("runs")  # the run's folder is dir/name


class Config(Section):
    """One run. Paths are relative to the working folder."""

    choices: ClassVar[Choices] = Choices()

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*(/[A-Za-z0-9][A-Za-z0-9._=,+-]*)*$", max_length=200),
        Key("place", in_sweeps="a run is named by its cell and seed"),
    ]
    task: Literal["segmentation", "classification"] = "segmentation"
    seed: Annotated[Seed, Key(in_sweeps="use sweep.seeds")] = 0
    resume: Annotated[bool, Key("runtime", in_sweeps="finished runs are kept, others resumed")] = False
    ops: Annotated[Literal["auto", "mlx", "onednn"], RUNTIME] = "auto"  # see docs/cpu.md
    threads: Annotated[Threads | None, RUNTIME] = None  # of the CPU operators; null: all cores of the affinity mask
    # That MLX may take; null: a share of the device's, see docs/devices.md
    memory_limit_gb: Annotated[Gigabytes | None, RUNTIME] = None
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
    def kind(self) -> Task:
        """What follows from the task."""
        return TASKS[self.task]

    @property
    def classes_may_coincide(self) -> bool:
        """Whether a case may be of several classes: the loss treats each class independently."""
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
    def _the_task_fills_in(cls, tree: Any) -> Any:
        named = tree.get("task", cls.model_fields["task"].default) if isinstance(tree, dict) else None
        return TASKS[named].with_defaults(tree, cls.choices) if isinstance(named, str) and named in TASKS else tree

    @model_validator(mode="after")
    def _cells_are_told_apart_by_the_sweep(self) -> "Config":
        for path in self.sweep.paths() if self.sweep else ():
            for settled, key in keys_where(type(self), tells_runs_apart).items():
                if is_within(path, (settled,)):
                    raise ValueError(f"sweep: {path} cannot be set by a cell: {key.in_sweeps}")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> "Config":
        self.kind.check_input(self)
        self.kind.check_loss(self)
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
        for value, label in (label_map or {}).items() if self.data.regions else ():
            if label not in (0, self.loss.ignore_label, *held(self.data.regions or {})):
                raise ValueError(f"data.label_map[{value}]={label}: no region of data.regions holds {label}")
        if label_map is None or names is None:
            return self
        for value, label in label_map.items():
            if not 0 <= label < len(names) and label != self.loss.ignore_label:
                raise ValueError(
                    f"data.label_map[{value}]={label}: data.class_names has {len(names)} classes, 0 to {len(names) - 1}"
                )
        return self

    @model_validator(mode="after")
    def _a_start_to_decay_to(self) -> "Config":
        if self.optim.decay_to_start is not None and self.init is None:
            raise ValueError("optim.decay_to_start requires init.from; set it, or set decay_to_start to null")
        return self

    @model_validator(mode="after")
    def _deep_supervision_has_levels(self) -> "Config":
        if not self.loss.supervise_coarsest and not self.model.args.supervises_levels:
            raise ValueError(
                "loss.supervise_coarsest=false needs deep supervision, and this network has one output; set "
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
