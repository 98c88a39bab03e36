"""Training from a config to the end of its budget, for train.py and for notebooks.

from engine.train import train
run = train("configs/mine.yaml", {"train.steps": 500})
"""

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from configs import Config
from configs.schema.load import Overrides, apply_overrides
from data.dataset import Dataset, open_data
from data.layouts.registry import settle_regions
from data.preview import save_preview
from engine.check_compatibility import check_array_sizes, check_fits_the_data
from engine.config import check_config, load_config
from engine.distributed.group import ALONE, Group
from engine.evaluation.tasks import room_of
from engine.reports.page import write_run_report
from engine.runs.check_resume import check_config_unchanged, check_files_unchanged
from engine.runs.checkpoints import steps_in
from engine.runs.environment import write_facts
from engine.runs.lock import hold
from engine.runs.memory_estimate import require_preparation_fits, require_training_fits
from engine.runs.precision import set_up_device, settle_training
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StoppableData, StopRequest
from engine.training.batches import Feed
from engine.training.budget import Budget
from engine.training.dry_run import format_rehearsal, rehearse
from engine.training.loop import Validate, fit, restore
from engine.training.losses import balanced_weights, build_loss
from engine.training.milestones import NO_HOOKS, Hooks
from engine.training.optim import build_optimizer, build_schedule
from engine.training.progress import Position, ShowPreparation
from engine.training.step import TrainStep
from engine.training.weights.freezing import Freezing
from engine.training.weights.load import Start, loaded_parameters, read_start
from engine.training.weights.match import begin_from, begin_rare, format_start
from models import build_model, count_parameters
from models.layers.dropout import check_norms, dropout_table, format_table
from models.layers.norms import synchronise_batch_norms

_log = logging.getLogger("mlx_volumes")


def train(
    config: Config | Path | str, overrides: Overrides = (), group: Group = ALONE, hooks: Hooks = NO_HOOKS
) -> RunFolder:
    """Train a run to the end of its budget; return its folder.

    config: a config, or the path of its YAML file; `overrides` are laid over it, {"train.steps": 500}. With
    {"resume": True} the run goes on where it stopped. Ctrl-C, SIGTERM, SIGHUP, or a file STOP in the run's folder end
    it after the current step, saved. Progress is logged as "mlx_volumes"; `hooks` are called as it goes.

    Raises ValueError for a mistake in the config or the data, NonFiniteError for a loss that is no number, OSError
    where files cannot be read or written.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides)
    elif overrides:
        config = check_config(apply_overrides(config.model_dump(mode="json", by_alias=True), overrides), config.name)
    set_up_device(config)
    return begin(settle_training(config, group), group).fit(hooks)


@dataclass(frozen=True)
class Training:
    """A run ready to begin, or to go on: everything is checked, read and built."""

    run: RunFolder
    config: Config
    data: Dataset
    step: TrainStep
    position: Position
    stop: StopRequest
    group: Group
    lock: ExitStack  # of the run's folder, in rank 0; `fit` gives it back

    def fit(self, hooks: Hooks = NO_HOOKS) -> RunFolder:
        """Train to the end of the budget, or until it is asked to stop; write the run's report.

        Raises NonFiniteError, OSError and FileProblem, for what goes wrong on the way.
        """
        config, data, stop, group = self.config, self.data, self.stop, self.group
        with self.lock:
            validate, cases = build_validation(config, data, stop, group), data.cases("train")
            with stop, group.together():
                arguments = (self.step, data, self.run, config, self.position, stop, validate)
                fit(*arguments, lambda index: cases[index].id, group, hooks)
            if group.writes:
                _log.info("report: %s", write_run_report(self.run))
        return self.run


def begin(config: Config, group: Group = ALONE) -> Training:
    """Read, check and build all that a run of the config needs, and write its facts into its folder.

    config: one that `settle_training` returned. Raises ValueError or OSError for what doesn't fit together, and
    where the run exists, unless it is to be resumed, or where another process trains it.
    """
    if config.sweep is not None:
        raise ValueError("sweep: train.py trains its runs, each in a process of its own; leave the section out here")
    config = settle_regions(config)
    run = RunFolder(config.run_folder, group.writes)
    with ExitStack() as lock:
        if group.writes:
            lock.enter_context(hold(run.path, "trains this run"))
        data, step, position = _build(run, config, group)
        stop = StopRequest(run.stop_path, speaks=group.writes)
        return Training(run, config, data, step, position, stop, group, lock.pop_all())


def _build(run: RunFolder, config: Config, group: Group) -> tuple[Dataset, TrainStep, Position]:
    """Return the prepared data, and the step at the position where the run begins or goes on."""
    resumed = group.writes and config.resume and run.exists()
    if resumed:
        check_config_unchanged(run, config)
    elif group.writes:
        run.require_absent()
        if config.resume:
            _log.info("%s: no run to resume yet; starting one", run.path)
    start = None if resumed and steps_in(run.checkpoints) else read_weights(config, group)
    data = prepare_data(config, run if resumed else None, group)
    step = build_step(config, data, group, start)
    if group.writes:
        write_facts(run, config, data, resumed, group)
    if start is not None:
        run.write_json("init", start.to_json())
        _log.info("%s", format_start(start))
    return data, step, restore(step, data, run, group)


def dry_run(config: Config, group: Group = ALONE) -> str:
    """Check everything, train two steps and discard them; return what a run would take, in rank 0, else "".

    Writes the first batch as batch.png into the run's folder.
    """
    config = settle_regions(config)
    data, step, start = assemble(config, group)
    budget = Budget.of(config, data.batches_per_epoch)
    with closing(Feed(data, budget.steps_per_epoch, config.train.accumulate)) as feed:
        batches, _ = feed.next(0)
    rehearsal = rehearse(step, batches)
    if not group.writes:
        return ""
    batch, cases = batches[0], data.cases("train")
    config.run_folder.mkdir(parents=True, exist_ok=True)
    picture = config.run_folder / "batch.png"
    shown = (picture, batch["x"], batch["y"], data.class_names, [cases[int(i)].id for i in batch["index"]])
    save_preview(*shown, is_clip=config.data.clip is not None, regions=config.data.regions)
    lines = [f"parameters  {count_parameters(step.model):,}"]
    if config.freeze is not None:
        lines.append(f"frozen      {step.freezing}")
    lines.append(format_table(dropout_table(step.model)))
    if start is not None:
        lines.append(format_start(start))
    return "\n".join([*lines, format_rehearsal(rehearsal, budget), f"batch       {picture}"])


def assemble(config: Config, group: Group = ALONE) -> tuple[Dataset, TrainStep, Start | None]:
    """Return the prepared data, the step of a new run, and the weights that it starts from."""
    config = settle_regions(config)
    start = read_weights(config, group)
    data = prepare_data(config, None, group)
    return data, build_step(config, data, group, start), start


def prepare_data(config: Config, run: RunFolder | None, group: Group) -> Dataset:
    """Open the data and prepare every case; a resumed run, given in rank 0, keeps its splits and statistics."""
    require_network_fits(config)
    if config.train.steps is not None:
        build_schedule(config.optim, config.train.steps)  # what it refuses is said before anything is read
    kept = {} if run is None else {name: run.read_json(name) for name in ("statistics", "splits")}
    if run is not None and run.has_json("files"):  # which runs of before 0.2 have not
        kept["files"] = run.read_json("files")
    kept = group.share_json(kept)
    data = open_data(config, **kept, rank=group.rank, world=group.size)
    if run is not None and "files" in kept and steps_in(run.checkpoints):
        check_files_unchanged(run, kept["files"], data.files)
    require_preparation_fits(config, data)
    data.prepare_all(progress=ShowPreparation())
    contents = {name: facts["hash"] for name, facts in data.files.items()}
    group.require_same("the data", f"fingerprint {data.fingerprint}, splits {data.splits}, files {contents}")
    _log.info("cases: %s", ", ".join(f"{len(ids)} {split}" for split, ids in data.splits.items()))
    if data.skipped:
        _log.warning("skipped %d cases: %s", len(data.skipped), ", ".join(sorted({s[0] for s in data.skipped})))
    return data


def read_weights(config: Config, group: Group) -> Start | None:
    """Return what the config's `init` names, in rank 0, which gives it to the others."""
    return read_start(config.init) if config.init is not None and group.writes else None


def require_network_fits(config: Config, num_channels: int = 1, num_outputs: int = 1) -> None:
    """Raise ValueError where training takes more memory than the limit; without data, of one channel and output."""
    # MLX is lazy: no weight is drawn
    model = build_model(config.model.name, config.model.args, num_channels, num_outputs)
    require_training_fits(config, num_channels, num_outputs, count_parameters(model))


def build_step(config: Config, data: Dataset, group: Group, start: Start | None = None) -> TrainStep:
    """Build model, loss and optimiser from the config, seeded; the model begins from `start`, where there is one."""
    check_fits_the_data(config, data)
    check_array_sizes(config, data, training=True)
    require_network_fits(config, data.num_channels, data.num_outputs)
    budget = Budget.of(config, data.batches_per_epoch)
    loss_config = config.loss
    if loss_config.class_weights == "balanced":
        weights = balanced_weights(dict(zip(data.class_names, data.class_counts["train"], strict=True)))
        loss_config = loss_config.model_copy(update={"class_weights": weights})
        _log.info("class weights: %s", ", ".join(f"{weight:.3g}" for weight in weights))
    regions = None if config.data.regions is None else tuple(config.data.regions.values())
    loss = build_loss(loss_config, data.num_outputs, group.gather if group.size > 1 else None, regions)
    mx.random.seed(config.seed)
    model = build_model(config.model.name, config.model.args, data.num_channels, data.num_outputs)
    if group.writes:
        check_norms(model, config.train.recalibrate_norms)
    if regions is not None:
        begin_rare(model)
    if config.init is not None:
        begin_from(model, start, config.init, data.class_names, group)
    if group.size > 1 and config.distributed.batch_norm == "synchronised":
        synchronise_batch_norms(model, group.gather_for_all)
    freezing = Freezing(model, config.freeze)
    loaded = loaded_parameters(config, start, group) if config.optim.decay_to_start is not None else set()
    optimizer = build_optimizer(config.optim, budget.total_steps, model, freezing, loaded)
    if config.freeze is not None:
        _log.info("frozen: %s", freezing)
    return TrainStep(model, optimizer, loss, config.train, config.optim, group, freezing, config.seed)


def build_validation(config: Config, data: Dataset, stop: StopRequest, group: Group = ALONE) -> Validate | None:
    """Return what scores the model during training; None without cases for it."""
    cases = [case for case in data.cases("val") if case.label is not None]
    if not cases:
        return None
    return room_of(config).make_validation(config, data.class_names, StoppableData(data, stop), cases, group)
