"""Which errors of storage are retried after a pause, and which are raised at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.errors import InputError
from workflows.storage import retry
from workflows.storage.errors import StorageFailure
from workflows.storage.retry import retry_storage


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
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(pauses))
    return pauses


def test_a_transient_error_is_retried() -> None:
    work = Flaky(ConnectionResetError("reset"), TimeoutError("slow"))

    assert retry_storage(60, work, "an answer") == "an answer"
    assert work.num_calls == 3


def test_the_last_failure_is_raised_when_the_time_is_up(clock: list[float]) -> None:
    work = Flaky(*(ConnectionResetError(f"reset {number}") for number in range(99)))

    with pytest.raises(ConnectionResetError, match="reset"):
        retry_storage(60, work, "an answer")
    assert 60 <= sum(clock) <= 60 + retry.LONGEST_WAIT_SECONDS


def test_the_pauses_grow_and_have_an_end(clock: list[float]) -> None:
    retry_storage(600, Flaky(*(TimeoutError() for _ in range(40))), "an answer")

    assert clock[0] <= 1
    assert max(clock[:4]) < 8
    assert all(7.5 <= pause <= 15 for pause in clock[5:])


@pytest.mark.parametrize("error", [ValueError("a bug"), InputError("no such column")])
def test_an_error_that_is_not_of_storage_is_raised_at_once(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(type(error)):
        retry_storage(60, work, "an answer")
    assert work.num_calls == 1


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("the token has expired")])
def test_a_lasting_error_fails_the_job_with_the_reason(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(StorageFailure, match=f"storage refused for good: {type(error).__name__}: {error}"):
        retry_storage(60, work, "an answer")
    assert work.num_calls == 1
