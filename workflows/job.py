"""The resolved job: its prompts, its output, the recipe of its images, and the actors that render them."""

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
    """The pool of actors, and how failures are handled.

    * `min`: actors that the job starts with; `max`: the most it uses (None: as many as the cluster has room for).
    * `gpus_per_actor`: 1, or 0 to render on CPUs. `accelerator_type`: only this kind of GPU, by Ray's name for it.
    * `batch_size`: images that one actor renders together (None: the engine chooses).
    * `max_tries`: how often a shard may fail before it is bisected to find the row at fault, or the job stops.
    * `storage_retry_seconds`: how long each step of a shard retries transient errors of storage.
    * `on_shard_failure`: a shard that cannot be rendered stops the job, or is skipped (the job then ends incomplete).
    * `stall_minutes`: an actor without progress for so long is replaced (None: the driver chooses).
    * `drain_seconds`: time to finish the shards in flight after a SIGTERM.
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
    """A job as the driver runs it: checked, with defaults and paths resolved. `JobSpec` is the job file as written.

    * `prompts`, `output`: absolute paths or fsspec URLs; `storage`: fsspec options for both.
    * `recipe`, `images`: decide the image files; a resume must have the same ones.
    * `shard_rows`: prompt rows per shard, the unit of dispatch and commit.
    * `allow_faults`: render even if the checkpoint's tokenizer or guidance is faulty.
    * `notes`: what a person should know about the checkpoint, one line each. They change no image.
    """

    name: str
    prompts: str
    output: str
    recipe: Recipe
    storage: dict[str, Any] = field(default_factory=dict)
    images: Images = Images(layout="files")
    workers: Workers = Workers()
    shard_rows: int = 256
    allow_faults: bool = False
    notes: tuple[str, ...] = ()
