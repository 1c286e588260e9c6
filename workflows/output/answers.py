"""The answers of a job that looks at images: the columns of its manifest, and the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from actors.request import LookRequest, Rejection, SeenImage
from workflows.job import RenderJob
from workflows.output.images import WrittenBatch


def answer_batch(
    job: RenderJob, device: str, batch: Sequence[tuple[LookRequest, SeenImage | Rejection]]
) -> WrittenBatch:
    """The manifest rows of a batch of answers. No file is written: the manifest holds the answers."""
    now = datetime.now(UTC)
    rows = [_row(job, device, now, request, seen) for request, seen in batch if isinstance(seen, SeenImage)]
    return WrittenBatch(
        rows=rows,
        packed={},
        rejected=[(request, answer.reason) for request, answer in batch if isinstance(answer, Rejection)],
        num_bytes=sum(len(row["answer"].encode()) for row in rows),
        moment=round(now.timestamp() * 1_000_000),
    )


def _row(job: RenderJob, device: str, now: datetime, request: LookRequest, seen: SeenImage) -> dict[str, Any]:
    recipe = job.recipe
    assert recipe.look is not None, "the job looks at images"
    return {
        "image_id": request.image_id,
        "prompt_id": request.prompt_id,
        "question": request.prompt,
        "answer": seen.answer,
        "score": seen.score,
        "score_kind": seen.score_kind,
        "image": request.image,
        "image_sha256": request.image_sha256,
        "width": request.width,
        "height": request.height,
        "max_tokens": recipe.look.max_tokens,
        "model": recipe.checkpoint,
        "model_revision": recipe.revision,
        "weights_sha256": recipe.weights_sha256,
        "family": recipe.family,
        "prompt_format": recipe.prompt_format,
        "dtype": recipe.dtype,
        "sampler": recipe.sampler,
        "device": device,
        "created_at": now,
    }
