"""Retries of a step while storage is away, so that a run starts late and rendered images are not lost.

Each step has one budget of seconds, `workers.storage_retry_seconds`. A step that uses it up fails the job: no other
mechanism, such as a shard's tries, multiplies it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from actors.errors import reason_line
from workflows.storage.errors import LASTING_ERRORS, StorageFailure, does_not_answer, is_transient

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 15.0
NOTE_SECONDS = 2.0  # of waiting before a person is told

P = ParamSpec("P")
T = TypeVar("T")


def retry_storage(url: str, seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, a step of a running job, and retry it after a pause while it fails with a transient storage error.

    Raises StorageFailure once `seconds` have passed since the first failure, and at once if storage refuses for good.
    """

    def step() -> T:
        try:
            return work(*args, **kwargs)
        except LASTING_ERRORS as error:
            if is_transient(error):
                raise
            raise StorageFailure(f"storage refused for good: {type(error).__name__}: {error}") from error

    return _retry(url, seconds, step, is_transient, lambda line: None)


def wait_for_storage(
    url: str, seconds: float, say: Callable[[str], None], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call `work`, a step before the first shard, and retry it after a pause while the store does not answer.

    Says so if that takes more than a moment, because the address may be wrong. Raises StorageFailure once `seconds`
    have passed since the first failure. Every other error is raised at once, as it is.
    """
    return _retry(url, seconds, lambda: work(*args, **kwargs), does_not_answer, say)


def _retry(
    url: str, seconds: float, step: Callable[[], T], may_pass: Callable[[Exception], bool], say: Callable[[str], None]
) -> T:
    """The pauses grow from half a second to 15 seconds, and have random lengths so that writers return at different
    moments. The last one ends with the budget.
    """
    began, wait, is_told, first_failure = time.monotonic(), FIRST_WAIT_SECONDS, False, None
    while True:
        try:
            return step()
        except Exception as error:
            if not may_pass(error):
                raise
            now = time.monotonic()
            first_failure = now if first_failure is None else first_failure
            left, reason = first_failure + seconds - now, reason_line(error)
            if left <= 0:
                waited = now - first_failure
                raise StorageFailure(
                    f"storage at {url} did not answer for {waited:.0f} seconds (workers.storage_retry_seconds); the "
                    f"last error: {reason}"
                ) from error
            if not is_told and now - began >= NOTE_SECONDS:
                say(f"waiting for storage at {url}, for up to {left:.0f} more seconds: {reason}")
                is_told = True
            time.sleep(min(left, wait * (0.5 + random.random() / 2)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
