"""Which of Ray's errors pass with a retry, what an actor failed over, and the one line that people read about it."""

from __future__ import annotations

from ray import exceptions as ray_errors

from actors.errors import EngineFailedError, InputError, JobFailure
from workflows.dispatch.actor import DeviceLostError
from workflows.storage.errors import is_transient

MAX_REASON_CHARACTERS = 300

# Failures of a process or a node: the same work elsewhere gives the same bytes. Any other error of an actor is a bug.
ACTOR_FAILURES = (ray_errors.RayActorError, DeviceLostError)
SYSTEM_FAILURES = (
    *ACTOR_FAILURES,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.OutOfMemoryError,
    ray_errors.TaskUnschedulableError,
    ray_errors.ActorUnschedulableError,
)


class DriverNodeLostError(JobFailure):
    """The Ray node that the driver is connected to is gone, and all state of the run with it."""

    def __init__(self) -> None:
        super().__init__("Ray died on the driver's own machine (its raylet exited); see the raylet's log")


class RenderFailedError(RuntimeError):
    """An actor or its engine failed while it rendered. `cause` is the error; the rows may be to blame."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @property
    def is_actor_lost(self) -> bool:
        return not isinstance(self.cause, EngineFailedError)

    @property
    def is_out_of_memory(self) -> bool:
        """Whether Ray killed the actor because the machine ran out of memory."""
        return isinstance(self.cause, ray_errors.OutOfMemoryError)

    @property
    def is_preempted(self) -> bool:
        return bool(getattr(self.cause, "preempted", False))


def is_failure_of_actor(error: BaseException) -> bool:
    """Whether an actor was lost or its engine failed. The driver's own tasks raise neither error themselves."""
    return isinstance(cause_of(error), (*ACTOR_FAILURES, EngineFailedError))


def is_system_failure(error: BaseException) -> bool:
    """Whether a process, a node or an object of Ray was lost."""
    return isinstance(cause_of(error), SYSTEM_FAILURES)


def can_be_retried(error: BaseException) -> bool:
    """Whether a retry can succeed: after a system failure, or when storage did not answer."""
    return is_system_failure(error) or is_transient(cause_of(error))


def cause_of(error: BaseException) -> BaseException:
    """The error that a remote function raised. Ray wraps it, once more for every task that it is passed to."""
    while isinstance(error, ray_errors.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def reason_of(error: BaseException) -> str:
    """One line for people."""
    cause = cause_of(error)
    lines = str(cause).splitlines() or [""]
    if isinstance(cause, EngineFailedError):  # its text begins with the class of the engine's error
        return lines[0][:MAX_REASON_CHARACTERS]
    if not isinstance(cause, ray_errors.ActorDiedError):
        return f"{type(cause).__name__}: {lines[0]}"[:MAX_REASON_CHARACTERS]
    # A headline, indented facts (ids, addresses), then the event; for a SYSTEM_ERROR Ray adds a list of guesses.
    event = next((line for line in lines[1:] if not line.startswith("\t")), lines[0])
    return event.partition(" Worker exit type: SYSTEM_ERROR")[0][:MAX_REASON_CHARACTERS]


def first_of(group: BaseException) -> BaseException:
    """The first error of a task group, for which the other tasks were cancelled. A bug keeps its remote traceback."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    if isinstance(cause_of(group), ray_errors.LocalRayletDiedError):
        return DriverNodeLostError()
    return cause_of(group) if isinstance(cause_of(group), InputError | JobFailure) else group
