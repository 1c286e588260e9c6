"""The resolved job: where prompts come from, where images go, with what recipe and which workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from actors.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """How images are stored: `format` png | webp | jpeg; `layout` files | webdataset | parquet."""

    format: str = "png"
    layout: str = "files"
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
    images: Images = Images()
    workers: Workers = Workers()
    shard_rows: int = 256
    allow_faults: bool = False

    def pinned(self) -> dict[str, Any]:
        """What a resume must find unchanged, by dotted field name: the recipe, the prompts, how images are stored."""
        recipe = {f"recipe.{key}": value for key, value in self.recipe.to_dict().items()}
        images = {"images.format": self.images.format, "images.layout": self.images.layout}
        return {
            "prompts": self.prompts,
            **images,
            "images.keep_latents": self.images.keep_latents,
            "storage.conditional_create": self.storage.get("conditional_create", True),
            **recipe,
        }
