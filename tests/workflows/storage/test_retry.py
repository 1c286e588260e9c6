"""What is tried again after a pause, and what is raised at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.errors import InputError
from workflows.storage import retry as patience
from workflows.storage.retry import patiently
from workflows.storage.store import StorageFailure


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
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were slept, on a clock that they move."""
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(pauses))
    return pauses


def test_what_may_pass_is_tried_again() -> None:
    work = Flaky(ConnectionResetError("reset"), TimeoutError("slow"))

    assert patiently(60, work, "an answer") == "an answer"
    assert work.num_calls == 3


def test_the_last_failure_is_raised_when_the_patience_is_over(clock: list[float]) -> None:
    work = Flaky(*(ConnectionResetError(f"reset {number}") for number in range(99)))

    with pytest.raises(ConnectionResetError, match="reset"):
        patiently(60, work, "an answer")
    assert 60 <= sum(clock) <= 60 + patience.LONGEST_WAIT_SECONDS


def test_the_pauses_grow_and_have_an_end(clock: list[float]) -> None:
    patiently(600, Flaky(*(TimeoutError() for _ in range(40))), "an answer")

    assert clock[0] <= 1
    assert max(clock[:4]) < 8
    assert all(7.5 <= pause <= 15 for pause in clock[5:])


@pytest.mark.parametrize("error", [ValueError("a bug"), InputError("no such column")])
def test_what_is_no_error_of_storage_is_raised_at_once(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(type(error)):
        patiently(60, work, "an answer")
    assert work.num_calls == 1


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("the token has expired")])
def test_what_storage_refuses_for_good_fails_the_job_with_the_reason(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(StorageFailure, match=f"storage refused for good: {type(error).__name__}: {error}"):
        patiently(60, work, "an answer")
    assert work.num_calls == 1
