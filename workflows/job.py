"""The resolved job: where prompts come from, where images go, with what recipe and which workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from actors.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """How a job's images are stored.

    * `layout`: files (one file per image), webdataset or parquet (one pack per shard), see `workflows.output.layouts`.
    * `format`: png and webp are lossless.
    * `keep_latents` (JanusFlow): also store each image's latents, a .npy file next to it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    layout: Literal["files", "webdataset", "parquet"]
    format: Literal["png", "webp", "jpeg"] = "png"
    keep_latents: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The pool: at least `min` actors to begin, never more than `max` (None: as many as the cluster has room for).

    `gpus_per_actor` is 1, or 0 to render on CPUs. `batch_size` None lets the engine choose, `stall_minutes` None the
    watchdog. Each step of a shard retries storage that is away for `storage_retry_seconds` before it counts as failed.
    """

    min: int = 1
    max: int | None = None
    gpus_per_actor: float = 0
    accelerator_type: str | None = None
    batch_size: int | None = None
    max_tries: int = 3
    storage_retry_seconds: float = 300.0
    on_shard_failure: Literal["stop", "skip"] = "stop"
    stall_minutes: float | None = None
    drain_seconds: float = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderJob:
    """What the driver needs to know, all checked and resolved; what a person wrote is `jobs.job_file.spec.JobSpec`."""

    name: str
    prompts: str
    output: str
    recipe: Recipe
    storage: dict[str, Any] = field(default_factory=dict)
    images: Images = Images(layout="files")
    workers: Workers = Workers()
    shard_rows: int = 256
    allow_faults: bool = False
