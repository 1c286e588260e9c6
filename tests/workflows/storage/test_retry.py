"""Which errors of storage are retried after a pause, and which are raised at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.errors import InputError
from workflows.storage import retry
from workflows.storage.errors import StorageError, StorageFailure, StorageUnreachable
from workflows.storage.retry import retry_storage, wait_for_storage

URL = "s3://bucket/out"


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

    assert retry_storage(URL, 60, work, "an answer") == "an answer"
    assert work.num_calls == 3


def test_a_step_fails_the_job_when_its_budget_is_used_up(clock: list[float]) -> None:
    work = Flaky(*(ConnectionResetError(f"reset {number}") for number in range(99)))

    with pytest.raises(
        StorageFailure, match=rf"storage at {URL} did not answer for 60 seconds \(.*\); the last error: reset \d+"
    ):
        retry_storage(URL, 60, work, "an answer")
    assert sum(clock) == pytest.approx(60)


def test_the_pauses_grow_and_have_an_end(clock: list[float]) -> None:
    retry_storage(URL, 600, Flaky(*(TimeoutError() for _ in range(40))), "an answer")

    assert clock[0] <= 1
    assert max(clock[:4]) < 8
    assert all(7.5 <= pause <= 15 for pause in clock[5:])


@pytest.mark.parametrize("error", [ValueError("a bug"), InputError("no such column")])
def test_an_error_that_is_not_of_storage_is_raised_at_once(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(type(error)):
        retry_storage(URL, 60, work, "an answer")
    assert work.num_calls == 1


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("the token has expired")])
def test_a_lasting_error_fails_the_job_with_the_reason(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(StorageFailure, match=f"storage refused for good: {type(error).__name__}: {error}"):
        retry_storage(URL, 60, work, "an answer")
    assert work.num_calls == 1


# ---- before the first shard ------------------------------------------------------------------------------------------


def test_a_store_that_is_away_at_first_is_waited_for_and_the_user_is_told_once(clock: list[float]) -> None:
    said: list[str] = []
    work = Flaky(*(ConnectionRefusedError(111, f"refused {number}") for number in range(6)))

    assert wait_for_storage(URL, 300, said.append, work, "an answer") == "an answer"
    (line,) = said
    assert line.startswith(f"waiting for storage at {URL}, for up to 29")
    assert "refused" in line


def test_a_store_that_comes_back_at_once_is_no_news() -> None:
    said: list[str] = []
    wait_for_storage(URL, 300, said.append, Flaky(TimeoutError()), "an answer")
    assert said == []


def test_a_store_that_stays_away_fails_the_job_after_one_budget(clock: list[float]) -> None:
    work = Flaky(*(StorageUnreachable("s3://b cannot be reached: Could not connect") for _ in range(99)))

    with pytest.raises(StorageFailure, match=f"storage at {URL} did not answer for 20 seconds"):
        wait_for_storage(URL, 20, lambda line: None, work, "an answer")
    assert sum(clock) == pytest.approx(20)


@pytest.mark.parametrize(
    "error", [StorageError("no such bucket"), OSError(30, "Read-only file system"), ValueError("Invalid endpoint")]
)
def test_an_address_that_is_wrong_is_reported_at_once(error: Exception) -> None:
    work = Flaky(error)

    with pytest.raises(type(error)):
        wait_for_storage(URL, 300, lambda line: None, work, "an answer")
    assert work.num_calls == 1
