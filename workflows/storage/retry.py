"""Retries of a step while storage is away, so that images that are already rendered are not lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from workflows.storage.errors import LASTING_ERRORS, StorageFailure, is_transient

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 15.0

P = ParamSpec("P")
T = TypeVar("T")


def retry_storage(seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, and retry it after a pause while it fails with a transient storage error.

    Gives up once `seconds` have passed since the first failure, and raises the last one. The pauses grow from half a
    second to 15 seconds and have random lengths, so that a job's writers do not all come back at once. Raises
    StorageFailure at once if storage refuses for good.
    """
    first_failure, wait = None, FIRST_WAIT_SECONDS
    while True:
        try:
            return work(*args, **kwargs)
        except LASTING_ERRORS as error:
            raise StorageFailure(f"storage refused for good: {type(error).__name__}: {error}") from error
        except Exception as error:
            first_failure = time.monotonic() if first_failure is None else first_failure
            if not is_transient(error) or time.monotonic() - first_failure >= seconds:
                raise
            time.sleep(wait * (0.5 + random.random() / 2))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
