"""The resolved job: its prompts, its output, the recipe of its images, and the actors that render them."""

from __future__ import annotations

from collections.abc import Iterable
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
class PromptReading:
    """How the prompt files are read: what their columns mean, and which of their rows are rendered.

    A resume must have the same values: they decide which images exist. Rows are selected in the order of the fields.

    * `reads_images`: whether the job looks at images and reads the columns image, question and id, not prompts.
    * `columns`: columns that the job reads (prompt, seed, ...), and their names in the prompt files. None: the files
      have no such column, and one of that name is carried as `original_<name>`.
    * `csv_delimiter` (None: found in the first line), `csv_header`: whether that line names the columns.
    * `where`: a condition on the columns, see `workflows.row_filter`.
    * `deduplicate`: leave out a row that asks for the same images as an earlier one.
    * `sample`: this many rows, picked at random with `sample_seed`; `limit`: the first rows only.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    reads_images: bool = False
    columns: dict[str, str | None] = field(default_factory=dict)
    csv_delimiter: str | None = None
    csv_header: bool = True
    where: str | None = None
    deduplicate: bool = False
    sample: int | None = None
    sample_seed: int = 0
    limit: int | None = None

    def names_in_files(self, names: Iterable[str]) -> dict[str, str]:
        """The names in the prompt files of columns that the job reads, by the job's names."""
        written = {name: self.columns.get(name, name) for name in names}
        return {name: column for name, column in written.items() if column is not None}

    @property
    def selects_rows(self) -> bool:
        return self.where is not None or self.depends_on_all_files

    @property
    def takes_first_rows(self) -> bool:
        """Whether the first rows are rendered, whatever the rows after them hold."""
        return self.limit is not None and self.where is None and not self.deduplicate and self.sample is None

    @property
    def depends_on_all_files(self) -> bool:
        """Whether the rows selected in one prompt file depend on the other files."""
        return self.deduplicate or self.sample is not None or self.limit is not None


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
    * `reading`: how the prompt files are read; a resume must have the same one.
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
    reading: PromptReading = PromptReading()
