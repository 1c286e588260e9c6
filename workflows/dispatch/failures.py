"""Which errors of Ray are losses that pass, who is to blame for them, and what people read of them."""

from __future__ import annotations

from ray import exceptions as ray_errors

from actors.errors import EngineFailedError, InputError, JobFailure
from workflows.dispatch.pool import DeviceLostError
from workflows.storage.errors import is_transient

MAX_REASON_CHARACTERS = 300

# Losses of a process or node: the same work elsewhere gives the same bytes. Anything else an actor raises is a bug.
LOSSES_OF_ACTORS = (ray_errors.RayActorError, DeviceLostError)
LOSSES = (
    *LOSSES_OF_ACTORS,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.OutOfMemoryError,
    ray_errors.TaskUnschedulableError,
    ray_errors.ActorUnschedulableError,
)


class DriverNodeLostError(JobFailure):
    """The Ray node that the driver works through is gone, and all that it was told with it."""


class PaintingFailedError(RuntimeError):
    """An actor or its engine failed over what it was asked to paint: `cause` says how. The rows may be to blame."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @property
    def is_actor_lost(self) -> bool:
        return not isinstance(self.cause, EngineFailedError)

    @property
    def is_out_of_memory(self) -> bool:
        """Ray ended the actor because the machine's memory ran out."""
        return isinstance(self.cause, ray_errors.OutOfMemoryError)

    @property
    def is_preempted(self) -> bool:
        return bool(getattr(self.cause, "preempted", False))


def is_failure_of_actor(error: BaseException) -> bool:
    """Whether an actor was lost or its engine failed; no task of ours raises these by itself."""
    return isinstance(cause_of(error), (*LOSSES_OF_ACTORS, EngineFailedError))


def may_pass(error: BaseException) -> bool:
    """Whether trying again can help: a lost process or node, or storage that is away for a while."""
    return isinstance(cause_of(error), LOSSES) or is_transient(cause_of(error))


def is_loss(error: BaseException) -> bool:
    return isinstance(cause_of(error), LOSSES)


def cause_of(error: BaseException) -> BaseException:
    """What a remote function raised, out of Ray's wrapping; a task handed another's error wraps it again."""
    while isinstance(error, ray_errors.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def reason_of(error: BaseException) -> str:
    """One line for people."""
    cause = cause_of(error)
    lines = str(cause).splitlines() or [""]
    if isinstance(cause, EngineFailedError):  # its text begins with the kind of what the engine raised
        return lines[0][:MAX_REASON_CHARACTERS]
    if not isinstance(cause, ray_errors.ActorDiedError):
        return f"{type(cause).__name__}: {lines[0]}"[:MAX_REASON_CHARACTERS]
    # A headline, indented facts (ids, addresses), then what happened; of a SYSTEM_ERROR Ray can only guess the causes.
    what_happened = next((line for line in lines[1:] if not line.startswith("\t")), lines[0])
    return what_happened.partition(" Worker exit type: SYSTEM_ERROR")[0][:MAX_REASON_CHARACTERS]


def first_of(group: BaseException) -> BaseException:
    """The first real error of a task group: what the others were cancelled for. A bug keeps its remote traceback."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    if isinstance(cause_of(group), ray_errors.LocalRayletDiedError):
        return DriverNodeLostError("Ray ended on the driver's own machine (its raylet died); its log has the reason")
    return cause_of(group) if isinstance(cause_of(group), InputError | JobFailure) else group
