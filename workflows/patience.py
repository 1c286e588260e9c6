"""Waiting for storage that is away for a while, so that what is rendered need not be rendered again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from workflows.storage import is_transient

WAITS = (1, 2, 4, 8, 15, 30)  # seconds between tries; each try waits for its own answers beside that

P = ParamSpec("P")
T = TypeVar("T")


def patiently(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`, and again after a pause where storage failed in a way that may pass; the last failure is raised."""
    for seconds in WAITS:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(seconds)
    return work(*args, **kwargs)
