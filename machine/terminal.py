"""Text on its way to a terminal or a log."""

import logging
import re
import sys
from typing import TextIO

# What a terminal obeys rather than shows (escape sequences, a turned reading direction), and halves of characters,
# which stand for bytes of file names that are no UTF-8. Line ends and tabs are left.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with every character that a terminal would obey, or cannot show, written out: `\x1b[31m`."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: object, file: TextIO | None = None, end: str = "\n") -> None:
    """Print a message, whatever names are in it; on stdout by default."""
    print(printable(str(text)), file=file or sys.stdout, end=end)


class PrintableFormatter(logging.Formatter):
    """Formats a log's lines so that no name in them is obeyed by a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
