"""An output folder, as a Python program and a notebook look at it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.api.arguments import path_of, text_of
from jobs.api.grid import grid
from jobs.api.images import Images
from jobs.api.job import plain
from jobs.api.replay import Replay, replay
from jobs.terminal.text import counted
from workflows.output.claim import SUCCESS_FILE, Claim, open_output
from workflows.output.manifest import (
    MANIFEST_SCHEMA,
    NUM_READERS,
    REJECTED_SCHEMA,
    committed_parts,
    parts_of_shards,
    read_rejected,
    rejected_files,
)
from workflows.output.parts import read_part
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage
from workflows.verify.replay import no_image

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image

LEFT_OUT = ["codes"]  # 576 numbers in each row
IMAGE_ID = "the id of an image, as in output.rows['image_id']"


class Output:
    """The images of an output, their manifest rows, its rejected rows and its settings.

    What is committed is read once, when it is asked for first; `janus_batch.open` the output again to see what a
    running job has committed since. In a notebook, an output shows its first images.
    """

    def __init__(self, storage: Storage, claim: Claim) -> None:
        self._storage, self._claim = storage, claim

    @property
    def url(self) -> str:
        """The output folder: an absolute path or a URL."""
        return self._storage.url

    @property
    def settings(self) -> dict[str, Any]:
        """How the images are rendered: the recipe of job.json, such as checkpoint, revision, cfg_weights and seed."""
        return dataclasses.asdict(self._claim.recipe)

    @property
    def is_finished(self) -> bool:
        """Whether every image is committed or rejected, as the last run has found."""
        with storage_errors(self.url):
            return self._storage.exists(SUCCESS_FILE)

    @cached_property
    def rows(self) -> pa.Table:
        """The manifest: one row per image, with the columns that the prompts carry. Without `codes`, its bulk.

        It is held in memory. For many millions of images, open OUTPUT/manifest with pyarrow.dataset or DuckDB.
        """
        with storage_errors(self.url):
            parts = [part for shard in parts_of_shards(committed_parts(self._storage)) for part in shard]
            with ThreadPoolExecutor(NUM_READERS) as readers:
                read = readers.map(lambda part: read_part(self._storage, part).drop_columns(LEFT_OUT), parts)
                tables = list(read)
        if not tables:
            return pa.schema([field for field in MANIFEST_SCHEMA if field.name not in LEFT_OUT]).empty_table()
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()

    def to_pandas(self) -> pandas.DataFrame:
        """`rows` as a data frame. Needs pandas."""
        return self.rows.to_pandas()

    @cached_property
    def images(self) -> Images:
        """The images as PIL images, in the order of `rows`: output.images[0]. Each is read when it is asked for."""
        return Images(self._storage, self.rows["image"].to_pylist())

    def image(self, image_id: str) -> Image:
        """One image by its id, the column `image_id` of `rows`. Raises InputError if there is none."""
        ids = self.rows["image_id"]
        position: int = pc.index(ids, text_of(image_id, "image_id", IMAGE_ID)).as_py()
        if position < 0:
            raise no_image(self.url, image_id, ids)
        return self.images[position]

    @cached_property
    def rejected(self) -> pa.Table:
        """The rows that were not rendered: prompt_id, reason, num_images, prompt, and the row in its prompt file."""
        with storage_errors(self.url):
            names = rejected_files(self._storage, committed_parts(self._storage)).values()
            tables = [read_rejected(self._storage, name, REJECTED_SCHEMA.names) for name in names]
        return pa.concat_tables(tables) if tables else REJECTED_SCHEMA.empty_table()

    def replay(self, image_id: str, **sampling: Any) -> Replay:
        """Re-render one image in this process, with other settings if some are given: replay("fox_0", cfg_weight=7).

        The settings are those of `render`, without images_per_prompt. Nothing is written. Raises InputError.
        """
        text_of(image_id, "image_id", IMAGE_ID)
        return replay(self._storage, self._claim, image_id, {key: plain(value, key) for key, value in sampling.items()})

    def __len__(self) -> int:
        """The number of images."""
        return int(self.rows.num_rows)

    def __repr__(self) -> str:
        return f"<Output {self.url}: {self._counts}>"

    def _repr_html_(self) -> str:
        return grid(f"{self.url}: {self._counts}", self.rows, self.images)

    @property
    def _counts(self) -> str:
        num_rejected = pc.sum(self.rejected["num_images"]).as_py() or 0
        state = "finished" if self.is_finished else "not finished"
        return f"{counted(len(self), 'image')}, {num_rejected:,} rejected, {state}"


def open_folder(output: str | os.PathLike[str], options: Mapping[str, Any]) -> Output:
    """The output in a folder. Raises InputError if it is none."""
    endpoint_url = options.get("endpoint_url")
    if endpoint_url is not None:
        text_of(endpoint_url, "endpoint_url", "the URL of an S3 store, such as http://127.0.0.1:9000")
    storage, claim = open_output(path_of(output, "output"), endpoint_url)
    return Output(Storage(storage.url, {**storage.options, **options}), claim)
