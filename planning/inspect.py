"""Look at a data set before training on it: `python -m planning.inspect PATH`.

Recognises the layout, reads every case once, and prints shapes, spacings, intensities and labels, of clips sizes
and frame rates, and the problems found, case by case. Exit code: 0 without problems, 1 with some, 2 for a path that
cannot be inspected.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from machine.terminal import say

if TYPE_CHECKING:  # imported where it is needed, so that --help is fast
    from planning.survey.survey import Survey


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m planning.inspect", description=(__doc__ or "").split("\n\n")[1])
    add_reading_arguments(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with slices or frames")
    options = parser.parse_intermixed_args(arguments)
    from planning.report.page import write_page
    from planning.report.text import survey_text

    try:
        if options.html is not None and not options.html.parent.is_dir():
            raise ValueError(f"--html {options.html}: there is no folder {options.html.parent}")
        survey = survey_with_progress(options, thumbnails=options.html is not None)
        say(survey_text(survey))
        if options.html is not None:
            write_page(options.html, survey)
            say(f"page: {options.html}")
    except (ValueError, OSError) as problem:
        say(f"planning.inspect: {problem}", sys.stderr)
        return 2
    return 1 if survey.problems or survey.findings else 0


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to read, and how."""
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of a data set, a CSV of its files, or an .npz")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="how to read it, where that is not clear from the path, e.g. data.columns.image=t1",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="threads that read files (default: up to 4)")


def survey_with_progress(options: argparse.Namespace, thumbnails: bool = False) -> "Survey":
    """Take the survey that `add_reading_arguments` asked for, with a progress bar on a terminal's stderr."""
    from tqdm import tqdm

    from planning.layout.recognise import read_settings
    from planning.survey.survey import take_survey

    config = read_settings(options.path, options.overrides)
    with tqdm(desc="reading cases", unit="case", file=sys.stderr, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return take_survey(config, thumbnails=thumbnails, threads=options.threads, progress=show)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
