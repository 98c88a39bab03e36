"""A plan for a data set turned into one that begins with the weights of a run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from configs import Config
from configs.schema.data import Clip, DataConfig
from configs.schema.roles import keys_where, shapes_the_input
from engine.config import check_config
from engine.runs.pack import open_run
from planning.proposal.rules import Decision, Plan, average_weights

RATE = 0.2  # of the run's learning rate
BUDGET = 0.3  # of the steps or passes that training from drawn weights would take
LEAST = {"steps": 200, "epochs": 5}
# What the weights have been trained on.
KEPT = {
    "data": tuple(key for key in keys_where(DataConfig, shapes_the_input) if not key.startswith("clip.")),
    "data.clip": tuple(keys_where(Clip, shapes_the_input)),
}
WHY = {
    "spacing_mm": "kept: at another spacing things look larger or smaller to the network",
    "crop_nonzero": "kept, as the intensities depend on it",
    "normalisation": "kept: the network knows intensities on this scale",
    "patch_size_voxels": "kept: what the network saw at a time, and its strides divide it",
    "frame_rate": "kept: at another rate things move faster or slower to the network",
    "frames": "kept: what the network saw at a time",
    "input": "kept: differences and frames are no substitutes",
    "colour": "kept: the number of input channels",
}


@dataclass(frozen=True)
class Trained:
    """A run to begin with: its path (a folder or a pack), its config, classes, and input channels."""

    path: str
    config: Config
    class_names: tuple[str, ...]
    num_channels: int


def read_trained(path: str) -> Trained:
    """Read a run's config and statistics. Raises ValueError where there is no run."""
    run = open_run(path)
    config = check_config(run.read_config_tree(), where=str(run.config_path))
    statistics = run.read_json("statistics")
    return Trained(path, config, tuple(statistics["class_names"]), statistics["num_channels"])


def fine_tune(plan: Plan, trained: Trained) -> Plan:
    """Return the plan with the run's network and preparation, its weights to begin with, a lower rate and fewer steps.

    Raises ValueError where run and data are of other kinds.
    """
    config = trained.config
    clips = any(decision.path.startswith("data.clip.") for decision in plan.decisions)
    of_run = config.task, "volumes" if config.data.clip is None else "clips"
    of_data = plan.task, "clips" if clips else "volumes"
    if of_run != of_data:
        raise ValueError(
            f"--from {trained.path}: a run for {' of '.join(of_run)}, and the data are for {' of '.join(of_data)}"
        )
    num_channels = trained.num_channels if clips else plan.num_channels
    name = f"{_value(plan, 'name')}_from_{Path(trained.path).stem}"
    decisions: list[Decision] = []
    for decision in plan.decisions:
        section = decision.path.split(".")[0]
        if decision.path == "name":
            decisions.append(replace(decision, value=name))
        elif decision.path == "data.root":
            decisions += [decision, *([] if clips else _kept(plan, config.data, "data"))]
        elif section == "model":
            if decision.path == "model.name":
                decisions += [*_model(config), *_init(trained, plan.class_names, num_channels)]
        elif decision.path == "data.clip.frames" and config.data.clip is not None:
            decisions += _kept(plan, config.data.clip, "data.clip")
        elif decision.path not in {f"{where}.{key}" for where, keys in KEPT.items() for key in keys}:
            decisions.append(_trained_on(decision, plan, config))
    head = [line.replace(f"runs/{_value(plan, 'name')}", f"runs/{name}") for line in plan.head]
    head = [line for line in head if not line.startswith("Memory: ")]
    head[1:1] = [
        f"Begins with the weights of {trained.path}. They fit no other model than the run's;",
        "keys marked kept are what they were trained with: after a change they have to adapt.",
    ]
    return replace(plan, head=tuple(head), decisions=tuple(decisions))


def _kept(plan: Plan, section: BaseModel, where: str) -> Iterator[Decision]:
    """Return how the run prepared its cases: what every plan decides too, and what is not a default."""
    keys = KEPT[where]
    values = section.model_dump(mode="json", include=set(keys))
    chosen = section.model_dump(mode="json", include=set(keys), exclude_defaults=True)
    for key in keys:
        if key == "spacing_mm" and _value(plan, "data.source") == "medmnist":
            yield Decision("data.spacing_mm", None, "an archive's volumes have none")
        elif key in chosen or key in WHY:
            yield Decision(f"{where}.{key}", values[key], WHY.get(key, "kept"))


def _model(config: Config) -> Iterator[Decision]:
    yield Decision("model.name", config.model.name, "the run's network, whole: its weights fit no other")
    for key, value in config.model.args.model_dump(mode="json", exclude_defaults=True).items():
        yield Decision(f"model.args.{key}", value)


def _init(trained: Trained, class_names: tuple[str, ...], num_channels: int) -> Iterator[Decision]:
    yield Decision("init.from", trained.path, "train.py prints what becomes of each of its tensors")
    if num_channels != trained.num_channels:
        more = num_channels > trained.num_channels
        how = ("repeat", "repeated") if more else ("mean", "averaged")
        why = f"the run's {trained.num_channels} input channels {how[1]} for the {num_channels} here"
        yield Decision("init.input", how[0], why)
    if class_names != trained.class_names:
        same = [name for name in class_names if name in trained.class_names]
        if same:
            yield Decision("init.head", "by_name", f"outputs of {', '.join(same)} are taken over, others drawn")
        else:
            yield Decision("init.head", "new", f"the run's classes ({', '.join(trained.class_names)}) are others")


def _trained_on(decision: Decision, plan: Plan, config: Config) -> Decision:
    """Return a decision on training with the run's value, at a lower rate and for fewer steps; others as planned."""
    path, batch_size = decision.path, min(config.train.batch_size, plan.num_train)
    budget, count = _budget(plan)
    steps = count if budget == "steps" else count * (plan.num_train // batch_size)
    decay = 0.99 if steps >= 500 else 0.95
    rate = float(f"{RATE * config.optim.learning_rate:.2g}")
    gentle = f"a fifth of the run's {config.optim.learning_rate:g}, so that its weights change slowly"
    drawn = f"{_value(plan, f'train.{budget}')} are planned for drawn weights; fewer will do"
    changed: dict[str, tuple[Any, str]] = {
        "data.foreground_rate": (config.data.foreground_rate, "the run's, as are its patches"),
        "optim.name": (config.optim.name, "the run's"),
        "optim.learning_rate": (rate, f"{gentle}; falls to 0 along a cosine"),
        "optim.warmup_steps": (min(_value(plan, "optim.warmup_steps"), max(1, steps // 10)), decision.why),
        "optim.ema_decay": (decay, average_weights(decay).why),
        f"train.{budget}": (count, drawn),
        "train.batch_size": (batch_size, "the run's: network and patches are its, and so is the memory they take"),
    }
    if path not in changed:
        return decision
    value, why = changed[path]
    return Decision(path, value, why)


def _budget(plan: Plan) -> tuple[str, int]:
    """Return what the plan counts in, and how much of it fine-tuning takes."""
    budget = "steps" if _value(plan, "train.steps") is not None else "epochs"
    planned = _value(plan, f"train.{budget}")
    return budget, min(planned, max(LEAST[budget], round(BUDGET * planned)))


def _value(plan: Plan, path: str) -> Any:
    return next((decision.value for decision in plan.decisions if decision.path == path), None)
