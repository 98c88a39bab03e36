"""Runs a sweep: train.py and evaluate.py train and evaluate each of its runs, in a process of its own."""

import logging
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from configs import Config
from engine.runs.lock import hold
from engine.runs.run_folder import RunFolder
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.dry_run import format_seconds
from studies.case_rows import read_metrics
from studies.sweep.folder import check_unchanged, is_evaluated, is_finished, is_trained, record
from studies.sweep.plan import PlannedRun, SweepPlan, make_plan, no_validation

_log = logging.getLogger("mlx_volumes")

LOG_NAME = "log.txt"
_SCRIPTS = Path(__file__).resolve().parents[2]
_CHILD = Path(__file__).with_name("entry.py")
_LOOK_EVERY_SECONDS = 0.2
_PATIENCE_SECONDS = 120.0  # for a run whose sweep was killed to finish its step


class RunFailed(Exception):
    """A run could not be trained or evaluated; the message gives the reason and its log."""


def run_sweep(
    config: Config, only: str | None = None, count_validation_cases: Callable[[Config], int] | None = None
) -> int:
    """Train and evaluate the unfinished runs of the sweep, or those of them that match `only`.

    Return the exit code: 0, 1 where a run failed, 129, 130 or 143 after a signal. A request to stop ends the sweep
    after the current step, saved; the same call continues from there.

    count_validation_cases: returns the number of a config's labelled validation cases.

    Raises ValueError where the plan doesn't fit the schema or the folder, where a run has no case to be scored on, and
    where another process works on the sweep.
    """
    plan = make_plan(config)
    chosen = plan.select(only)
    check_unchanged(plan)
    if count_validation_cases is not None:
        _require_validation([run for run in chosen if not is_finished(plan, run)], count_validation_cases)
    stop = StopRequest(plan.folder / "STOP")
    failed: list[str] = []
    with hold(plan.folder, "works on this sweep", _PATIENCE_SECONDS) as lock:
        record(plan)
        try:
            with stop:
                _run_all(plan, chosen, failed, stop, lock)
        except StopRequested:
            _log.info("stopped by %s; the same command continues from here", stop.reason)
        stop.stop_file.unlink(missing_ok=True)
    if failed:
        _log.error(
            "%d of %d runs failed: %s; the same command tries them again", len(failed), len(chosen), ", ".join(failed)
        )
    return stop.exit_code or (1 if failed else 0)


def _require_validation(runs: Sequence[PlannedRun], count: Callable[[Config], int]) -> None:
    """Raise ValueError for the first run without validation cases to be scored on."""
    seen: set[str] = set()
    for run in runs:
        key = run.config.model_dump_json(include={"task", "data"})
        if key not in seen and not count(run.config):
            raise no_validation(run.folder, run.config)
        seen.add(key)


def _run_all(plan: SweepPlan, runs: Sequence[PlannedRun], failed: list[str], stop: StopRequest, lock: int) -> None:
    """Finish the runs one by one; add the folders of those that fail to `failed`."""
    waiting = [run for run in runs if not is_finished(plan, run)]
    done = len(runs) - len(waiting)
    _log.info("%s: %d of %d runs are finished, %d to go", plan.folder, done, len(runs), len(waiting))
    layout = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    bar = tqdm(total=len(runs), initial=done, disable=not sys.stderr.isatty(), dynamic_ncols=True, bar_format=layout)
    started = time.perf_counter()
    with bar, logging_redirect_tqdm():
        for number, run in enumerate(waiting, 1):
            begun = time.perf_counter()
            try:
                _finish(plan, run, stop, lock, bar.set_postfix_str)
                outcome = _score(plan, run)
            except RunFailed as error:
                failed.append(run.folder)
                outcome = f"FAILED: {error}"
            now = time.perf_counter()
            left = (len(waiting) - number) * (now - started) / number
            _log.info(
                "%d/%d %s: %s, %s; left about %s",
                done + number,
                len(runs),
                run.folder,
                outcome,
                format_seconds(now - begun),
                format_seconds(left),
            )
            bar.update()


def _finish(plan: SweepPlan, run: PlannedRun, stop: StopRequest, lock: int, show: Callable[[str], Any]) -> None:
    """Complete the run: train it to its end, and evaluate its last checkpoint."""
    folder = RunFolder(plan.folder / run.folder)

    def execute(*arguments: str) -> None:
        stop.raise_if_requested()
        code = _execute(arguments, folder.path / LOG_NAME, stop, lock, lambda line: show(f"{run.folder}: {line}"))
        stop.raise_if_requested()
        if code:
            raise RunFailed(f"{_last_line(folder.path / LOG_NAME)} (exit code {code}, {folder.path / LOG_NAME})")

    if not is_trained(run, folder):
        config_path = str(RunFolder(plan.folder).config_path)
        execute("train.py", "--config", config_path, "--resume", *run.overrides)
        if not is_trained(run, folder):
            raise RunFailed(f"training was stopped before its end ({folder.path / LOG_NAME})")
    cases = {"val": (), "train": (f"evaluate.cases={plan.sweep.train_cases}",)}
    for split in plan.splits:
        if not is_evaluated(folder, split):
            path = str(folder.path)
            execute("evaluate.py", "--run", path, "--checkpoint", "last", "--split", split, *cases[split])


def _execute(arguments: Sequence[str], log: Path, stop: StopRequest, lock: int, show: Callable[[str], Any]) -> int:
    """Run a script, append its output to `log`, and return its exit code; pass on a request to stop.

    The script has a session of its own, so that Ctrl-C reaches it only once, through this process; see also
    `studies/sweep/entry.py`.
    """
    script, *rest = arguments
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ python {shlex.join(arguments)}\n")
        output.flush()
        process = subprocess.Popen(
            [sys.executable, str(_CHILD), str(_SCRIPTS / script), *rest],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
    assert process.stdin is not None
    is_told = False
    with process.stdin:  # the script ends when this closes, even after an error here
        while True:
            try:
                return process.wait(_LOOK_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                show(_last_line(log))
            if stop.requested and not is_told:
                process.terminate()
                is_told = True


def _last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, without its time; of a command only the script."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return re.sub(r"^\$ python (\S+).*", r"\1", re.sub(r"^\d\d:\d\d:\d\d ", "", last))


def _score(plan: SweepPlan, run: PlannedRun) -> str:
    """Return the sweep's metric and its value in the evaluation of the run."""
    metric = plan.config.checkpoint.metric
    value: Any = read_metrics(RunFolder(plan.folder / run.folder).evaluation("val"))
    for key in metric.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return f"{metric} {value:.4f}" if isinstance(value, float) else f"{metric} undefined"
