"""From the rows of one shard to questions about images. A row with an invalid value is rejected with its reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa

from actors.recipe import Look
from actors.request import LookRequest
from workflows.job import RenderJob
from workflows.looking.pictures import Picture, read_pictures
from workflows.plan import Shard
from workflows.prompt_files.columns import LOOK_COLUMN_TYPES
from workflows.prompts import read_rows, row_numbers
from workflows.rows import RejectedRow, Row, ShardRows, check_id

MAX_QUESTION_CHARACTERS = 10_000


def read_look_shard(job: RenderJob, shard: Shard) -> ShardRows:
    """Read and check a shard's rows and their images: each row becomes a request, or is rejected."""
    look = job.recipe.look
    assert look is not None, "the job looks at images"
    table = read_rows(shard.file, shard.start, shard.stop, job.storage)
    numbers = row_numbers(shard.file, shard.start, shard.stop, job.storage)
    pictures = read_pictures([_value(table["image"], index) for index in range(table.num_rows)], look, job.storage)
    requests: list[LookRequest] = []
    rejected: list[RejectedRow] = []
    row_of: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        row = Row(table, index, shard, numbers[index])
        try:
            request = _request_of(row, picture, look, taken_ids=row_of)
        except ValueError as error:
            rejected.append(dataclasses.replace(row.reject(str(error), job.recipe), prompt=_text_or_none(row)))
        else:
            row_of[request.prompt_id] = index
            requests.append(request)
    carried = table.select([name for name in table.column_names if name not in LOOK_COLUMN_TYPES])
    return ShardRows(
        shard=shard,
        requests=requests,
        rejected=rejected,
        carried=carried,
        row_of=row_of,
        row_seeds=dict.fromkeys(row_of),
        row_numbers=numbers,
    )


def _value(column: pa.ChunkedArray, index: int) -> Any:
    """The row's value, or the ValueError of text that is not UTF-8."""
    try:
        return column[index].as_py()
    except UnicodeDecodeError:
        return ValueError("image is not valid UTF-8 text")


def _request_of(row: Row, picture: Picture | ValueError, look: Look, *, taken_ids: dict[str, int]) -> LookRequest:
    row_id, question = check_id(row, taken_ids), _check_question(row["question"]) or look.question
    if isinstance(picture, ValueError):
        raise picture
    return LookRequest(
        image_id=row_id,
        prompt_id=row_id,
        prompt=question,
        picture=picture.pixels,
        is_scored=look.scores(question),
        image=picture.location,
        image_sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
    )


def _check_question(question: str | None) -> str | None:
    """The row's own question; None if it asks nothing."""
    if question is None or not question.strip():
        return None
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise ValueError(f"question must have at most {MAX_QUESTION_CHARACTERS:,} characters, got {len(question):,}")
    return question


def _text_or_none(row: Row) -> str | None:
    try:
        question: str | None = row["question"]
        return question
    except ValueError:
        return None
