"""What holds for every test."""

import pytest

from ops import backend


@pytest.fixture(autouse=True)
def _other_tests_choose_their_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_form", backend._form)
