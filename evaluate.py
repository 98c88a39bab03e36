"""Evaluate a run's checkpoint, or predict new volumes or clips with it.

python evaluate.py --run runs/demo_unet [--split val] [--checkpoint last] [key.path=value ...]
python evaluate.py --run runs/demo_unet --images FOLDER
python evaluate.py --run runs/demo_unet --export model.zip      (docs/finetune.md; --run model.zip then predicts)
python evaluate.py --run runs/demo_clips --baseline runs/demo_clips_single_frame
python evaluate.py --run runs/demo_unet --mc-dropout 20         (uncertainty: docs/uncertainty.md)
python evaluate.py --run runs/seed0 runs/seed1 runs/seed2       (their mean, a deep ensemble)
python evaluate.py --compare runs/ablations/channel_dropout      (the cells of a sweep: docs/ablations.md)
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import machine  # noqa: F401  # prints how to start where packages are missing
from machine.terminal import say


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate a run's checkpoint, or predict new volumes or clips with it.",
        epilog="Writes metrics.json, tables and report.html. Exit code: 0, 1 where a case failed, 2 for a mistake.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", nargs="+", metavar="DIR", help="a run's folder, or a pack.zip; several: an ensemble")
    what.add_argument("--compare", metavar="DIR", help="compare the cells of a sweep's folder (docs/ablations.md)")
    add = parser.add_argument
    add("--checkpoint", metavar="last|best|PATH", help="default: last; best was chosen by the validation cases")
    add("--split", choices=("train", "val", "test", "all"), default="val", help="default: val")
    add("--images", metavar="FOLDER", help="predict a folder's volumes or clips, or a file, without labels")
    add("--window-seconds", type=float, metavar="S", help="of --images, long videos: scores of windows over time")
    add("--hop-seconds", type=float, metavar="S", help="between the beginnings of windows (default: their length)")
    add("--baseline", metavar="DIR", help="a classification run evaluated on the split, to compare with")
    add("--mc-dropout", type=int, metavar="N", help="predict the mean of N draws of the network by its dropout layers")
    add("--output", metavar="FOLDER", help="default: eval/SPLIT in the run's folder, with _mc_dropout or _ensemble")
    add(
        "--export",
        metavar="FILE.zip",
        help="write config, weights and metrics into a pack, without evaluating",
    )
    add("--licence", metavar="TEXT", help="of the pack, e.g. CC-BY-4.0 (default: unspecified)")
    keys = "config keys to set (docs/configs.md lists them), e.g. data.root=ELSEWHERE evaluate.overlap=0.25"
    add("overrides", nargs="*", metavar="key.path=value", help=keys)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.run:  # nargs="+" takes all words up to the next option
        first, *more = arguments.run
        arguments.run = [first, *(word for word in more if not _is_override(word))]
        arguments.overrides += filter(_is_override, more)
    return arguments


def _is_override(word: str) -> bool:
    """Return whether a word is key.path=value and not a folder, whose name may contain = too."""
    key, sign, _ = word.partition("=")
    return bool(sign) and "/" not in key and not Path(word).exists()


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 where a case failed or memory ran out, 2 for a user's mistake."""
    arguments = parse_arguments(argv)
    from engine.distributed.group import ALONE, GroupError, join_group, set_up_logging
    from engine.runs.trained import open_trained

    group = ALONE
    try:
        if arguments.compare:
            from studies.comparison.report import compare_sweep

            say(f"report: {compare_sweep(arguments.compare)}")
            return 0
        group = join_group()
        set_up_logging(group)
        with group.together():
            pack, licence = arguments.export, arguments.licence
            if (licence and not pack) or (pack and arguments.images):
                raise ValueError("--export goes only with --checkpoint and --licence, and --licence only with --export")
            if pack and (len(arguments.run) > 1 or arguments.mc_dropout):
                raise ValueError("--export packs one run, without --mc-dropout")
            import engine.config  # noqa: F401  # registers what a run's config may name

            runs = open_trained(arguments.run, arguments.checkpoint, arguments.overrides)
            if pack:
                from engine.predict import export

                if group.writes:
                    say(export(runs[0], pack, licence))
                return 0
            from engine.evaluate import evaluate  # after the runs were opened: it takes seconds to import

            keys = ("split", "images", "baseline", "mc_dropout", "window_seconds", "hop_seconds", "output")
            chosen = {key: getattr(arguments, key) for key in keys}
            return 1 if evaluate(runs, **chosen, group=group).failures else 0
    except (ValueError, OSError, GroupError, MemoryError) as error:
        group.print_error(error, "evaluate.py")
        return 1 if isinstance(error, MemoryError) else 2
    finally:
        group.leave()


if __name__ == "__main__":
    sys.exit(main())
