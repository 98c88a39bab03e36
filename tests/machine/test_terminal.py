import logging
import sys

import pytest

from machine.terminal import PrintableFormatter, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Größe 3 × 4 …\n\tnext line", "plain, Größe 3 × 4 …\n\tnext line"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\x08\x7f\x9b31m", r"over\rwritten\x08\x7f\x9b31m"),
        ("turned \u202egnp.exe", r"turned \u202egnp.exe"),
        (b"caf\xe9.nii".decode("utf-8", "surrogateescape"), r"caf\udce9.nii"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(
    text: str, shown: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert printable(text) == shown
    say(text)
    say(text, sys.stderr)
    assert capsys.readouterr() == (shown + "\n", shown + "\n")
    record = logging.LogRecord("mlx_volumes", logging.INFO, "", 0, "%s", (text,), None)
    assert PrintableFormatter("%(message)s").format(record) == shown
