"""One part of the manifest, as an actor scores it: read the images, score them, commit the scores."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from actors.understanding.scorers.source import Columns, ImageScorer
from workflows.job import RenderJob
from workflows.output.image_files import ImageFiles
from workflows.output.manifest import NUM_READERS
from workflows.output.parts import read_part
from workflows.scores.columns import to_table
from workflows.scores.parts import KEY_SCHEMA, Scorer, ScoresError, write_scores
from workflows.storage.retry import retry_storage
from workflows.storage.store import Storage

P = ParamSpec("P")
T = TypeVar("T")

NUM_AHEAD = 64  # images that are decoded at once
NOT_IN_ROWS = ("codes",)  # columns of the manifest that no scorer gets


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScores:
    """What the driver learns about a scored part. An image is without score if all its columns are null."""

    num_images: int
    num_without_score: int


def score_part(job: RenderJob, scorer: Scorer, image_scorer: ImageScorer, part: str) -> PartScores:
    """Score a part's images in the order of its rows and commit the scores; a part that is committed already is kept.

    Raises DamagedFileError for an image that is missing or whose bytes are not those of its row.
    """
    storage = Storage(job.output, job.storage)

    def on_storage(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return retry_storage(job.output, job.workers.storage_retry_seconds, step, *args, **kwargs)

    rows, scored = on_storage(read_part, storage, part), list[Columns]()
    with ThreadPoolExecutor(NUM_READERS) as threads:
        files = ImageFiles(storage, threads)
        for start in range(0, rows.num_rows, NUM_AHEAD):
            chunk = rows.slice(start, NUM_AHEAD)
            data = on_storage(files.read, chunk["image"].to_pylist(), chunk["image_sha256"].to_pylist())
            records = chunk.select([name for name in chunk.column_names if name not in NOT_IN_ROWS]).to_pylist()
            scored.append(image_scorer.score([_pixels(image) for image in data], records))
    if not scored:
        return PartScores(num_images=0, num_without_score=0)
    table = on_storage(to_table, storage, scorer.name, _joined(scorer.name, scored))
    keys = [rows[name].cast(pa.string()) for name in KEY_SCHEMA.names]
    keyed = pa.table([*keys, *table.columns], names=[*KEY_SCHEMA.names, *table.column_names])
    on_storage(write_scores, storage, scorer, part, keyed)
    num_null = np.sum([column.is_null().to_numpy() for column in table.columns], axis=0)
    return PartScores(num_images=rows.num_rows, num_without_score=int((num_null == table.num_columns).sum()))


def _pixels(data: bytes) -> np.ndarray:
    """The pixels of an image file, uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _joined(name: str, scored: Sequence[Columns]) -> dict[str, Sequence[Any] | np.ndarray]:
    """The columns of all chunks of a part. Raises ScoresError where the chunks have different ones."""
    first = scored[0]
    if other := next((one for one in scored if one.keys() != first.keys()), None):
        raise ScoresError(f"scorer {name} gave the columns {', '.join(first)} and then {', '.join(other)}")
    if not first:
        raise ScoresError(f"scorer {name} must give at least one column of scores, got none")
    return {column: _concatenated([one[column] for one in scored]) for column in first}


def _concatenated(values: Sequence[Sequence[Any] | np.ndarray]) -> Sequence[Any] | np.ndarray:
    """The values of all chunks. Arrays of one type and shape stay an array, whose type says how numbers are stored."""
    if len({(one.dtype, one.shape[1:]) if isinstance(one, np.ndarray) else None for one in values}) == 1 and isinstance(
        values[0], np.ndarray
    ):
        return np.concatenate(values)
    return [value for one in values for value in one]
