"""A function on the cluster next to the actors: a Ray task that takes no CPU from them and can be ended at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayTaskError

from workflows.dispatch.failures import cause_of

T = TypeVar("T")


class SideTask(Generic[T]):
    """A call that is running. Arguments may be references to results of other tasks."""

    def __init__(self, function: Callable[..., T], *arguments: Any) -> None:
        self._ref = ray.remote(function).options(num_cpus=0, max_retries=0).remote(*arguments)

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most for so long; whether it has ended."""
        done, _ = ray.wait([self._ref], timeout=seconds)
        return bool(done)

    def result(self) -> T:
        """What it returned; raises what it raised."""
        try:
            result: T = ray.get(self._ref)
        except RayTaskError as error:
            raise cause_of(error) from error
        return result

    def end(self) -> None:
        """Kill its process, whatever it is doing."""
        ray.cancel(self._ref, force=True)
