"""What is tried again after a pause, and what is raised at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workflows import patience
from workflows.patience import patiently


class Flaky:
    """Raises these errors, one a call, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors: Iterator[Exception] = iter(errors)
        self.num_calls = 0

    def __call__(self, answer: str) -> str:
        self.num_calls += 1
        error = next(self.errors, None)
        if error is not None:
            raise error
        return answer


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "WAITS", (0, 0))


def test_what_may_pass_is_tried_again() -> None:
    work = Flaky(ConnectionResetError("reset"), TimeoutError("slow"))

    assert patiently(work, "an answer") == "an answer"
    assert work.num_calls == 3


def test_the_last_failure_is_raised() -> None:
    work = Flaky(*(ConnectionResetError(f"reset {number}") for number in range(9)))

    with pytest.raises(ConnectionResetError, match="reset 2"):
        patiently(work, "an answer")


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("no"), ValueError("a bug")])
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(type(error)):
        patiently(work, "an answer")
    assert work.num_calls == 1
