"""Where and when a job runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from actors.errors import shown
from jobs.job_file.cron import check_cron
from jobs.job_file.sections.base import FiniteFloat, Section, plain_error

MAX_ACTORS = 100_000


class WorkersSection(Section):
    min: int = Field(1, ge=1, le=MAX_ACTORS, description="Minimum number of actors.")
    max: int | None = Field(
        None, ge=1, le=MAX_ACTORS, description="Maximum number of actors. Default: as many as fit on the cluster."
    )
    gpus_per_actor: FiniteFloat | None = Field(
        None, description="1, or 0 to render on CPUs. Default: 1 if the cluster has a GPU, else 0."
    )
    batch_size: int | Literal["auto"] = Field("auto", description="Images that one actor renders at once.")
    max_tries: int = Field(
        3, ge=1, description="How often a shard may fail before bisection looks for the row at fault."
    )
    on_shard_failure: Literal["stop", "skip"] = Field(
        "stop", description="After a shard fails for good: stop the job, or skip the shard and exit with 1 at the end."
    )
    stall_minutes: FiniteFloat | None = Field(
        None,
        gt=0,
        description="An actor that makes no image for this long is killed and replaced. Default: 10, or 20 times the "
        "longest batch so far if that is longer.",
    )
    drain_seconds: FiniteFloat = Field(
        25.0, ge=0, description="After a SIGTERM, the time to finish the shards in flight. The job can be resumed."
    )
    storage_retry_seconds: FiniteFloat = Field(
        300, ge=0, description="How long each step of a shard retries storage that is busy or does not answer."
    )
    accelerator_type: str | None = Field(
        None,
        min_length=1,
        description="Render only on this type of GPU, by Ray's name: L4, L40S, A100-80G, H100.",
    )

    @field_validator("gpus_per_actor")
    @classmethod
    def _check_gpus_per_actor(cls, value: float | None) -> float | None:
        if value not in (None, 0, 1):
            raise ValueError("must be 0 or 1: an actor renders on CPUs or on one GPU, and uses all memory of that GPU")
        return value

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @model_validator(mode="after")
    def _check_range(self) -> WorkersSection:
        if self.max is not None and self.min > self.max:
            raise plain_error(f"workers.min: must be at most workers.max, {self.max}, got {self.min}")
        return self


class ScheduleSection(Section):
    """When `janus-batch schedule` runs the job."""

    cron: str = Field(
        description="`minute hour day month weekday`, as in a crontab. A sixth field in front is the second."
    )
    time_zone: str = Field("UTC", description="Time zone of cron and of date fields, such as Europe/Berlin.")
    when_running: Literal["skip", "queue"] = Field(
        "skip", description="If the last run is still running when the next is due: skip the next one, or queue it."
    )
    catch_up: int = Field(
        1, ge=0, le=1000, description="How many missed or queued runs may wait for their start. Older runs are dropped."
    )
    max_tries: int = Field(3, ge=1, description="How often an incomplete run (exit code 1) is started.")

    @model_validator(mode="after")
    def _check_times(self) -> ScheduleSection:
        try:
            check_cron(self.cron, self.time_zone)
        except ValueError as error:
            raise plain_error(f"schedule.cron: {error}, got {shown(self.cron)} in {shown(self.time_zone)}") from error
        if self.when_running == "queue" and not self.catch_up:
            raise plain_error("schedule.catch_up: must be at least 1 with when_running: queue, got 0")
        return self
