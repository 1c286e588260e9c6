"""Waiting for storage that is away for a while, so that what is rendered need not be rendered again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from workflows.storage.store import LASTING_ERRORS, StorageFailure, is_transient

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 15.0

P = ParamSpec("P")
T = TypeVar("T")


def patiently(seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, and again after a pause where storage failed in a way that may pass; the last failure is raised.

    Given up is what fails `seconds` after its first failure, or later. The pauses grow and are of random length, so
    that the writers of a job do not come back together. Raises StorageFailure at once where storage refuses for good.
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
