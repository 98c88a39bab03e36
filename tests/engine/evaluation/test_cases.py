import errno
import logging
from pathlib import Path

import pytest

from engine.evaluation.cases import Failure, attempt
from machine import disk
from tests.engine.doubles import Case


@pytest.mark.parametrize(
    ("error", "file", "reason"),
    [
        (ValueError("image.nii: ends early"), "image.nii", "ends early"),
        (EOFError(), "image.nii", "EOFError"),
        (FileNotFoundError(2, "No such file", "b.nii"), "b.nii", "No such file"),
    ],
)
@pytest.mark.parametrize(("is_numbered", "place"), [(True, "2/3 "), (False, "")])
def test_a_case_at_fault_is_a_failure_and_the_others_go_on(
    error: Exception, file: str, reason: str, is_numbered: bool, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate(case: Case) -> str:
        if case.id == "y":
            raise error
        return case.id.upper()

    failures: list[Failure] = []
    with caplog.at_level(logging.ERROR, "mlx_volumes"):
        assert list(attempt([Case(id) for id in "xyz"], evaluate, failures, is_numbered)) == [(1, "X"), (3, "Z")]
    assert failures == [Failure("y", file, reason)]
    assert caplog.messages == [f"{place}y FAILED: {file}: {reason}"]


def test_a_full_disk_is_no_fault_of_the_case() -> None:
    def evaluate(case: Case) -> None:
        with disk.writing(Path("eval/predictions/x.nii.gz")):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"eval/predictions/x\.nii\.gz: cannot be written \(No space left"):
        list(attempt([Case("x")], evaluate, []))


def test_an_error_of_ours_ends_the_program() -> None:
    with pytest.raises(ZeroDivisionError):
        list(attempt([Case("x")], lambda case: 1 / 0, []))
