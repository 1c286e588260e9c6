"""The images of a batch: encoded, stored, and described by a row of the manifest each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from actors.prompt.template import template_to_json
from actors.recipe import Judge, adapters_to_json, sampling_settings
from actors.request import AnyRequest, ImageRequest, Rejection, RenderedImage, Verdict
from workflows.job import RenderJob
from workflows.output.encode import EXTENSIONS, encode_image
from workflows.output.layouts import location, npy_bytes
from workflows.output.picture_statistics import picture_statistics
from workflows.storage.store import Storage

NUM_WRITERS = 8  # threads that encode and upload the images of one batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """What judging the kept images of a batch cost: candidates, tries after the first, and seconds spent looking."""

    num_candidates: int = 0
    num_rerolls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenBatch:
    """A batch whose images are stored, or encoded where the layout packs them at the commit.

    * `rows`: the manifest rows of the images.
    * `packed`: bytes by location; empty for layout files.
    * `rejected`: requests that the engine could not render, with the reasons.
    * `num_bytes`: size of the encoded images and latents.
    * `moment`: when the batch was rendered, in microseconds since 1970. All its images have it as `created_at`.
    * `looks`: what judging the images cost.
    """

    rows: list[dict[str, Any]]
    packed: dict[str, bytes]
    rejected: Sequence[tuple[AnyRequest, str]]
    num_bytes: int
    moment: int = 0
    looks: Looks = Looks()


def write_batch(
    job: RenderJob, shard_id: str, device: str, batch: Sequence[tuple[ImageRequest, RenderedImage | Rejection]]
) -> WrittenBatch:
    """Encode a batch of answers, and store the image files (layout files) or return their bytes (other layouts)."""
    storage, now = Storage(job.output, job.storage), datetime.now(UTC)
    rendered = [(request, answer) for request, answer in batch if isinstance(answer, RenderedImage)]
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        written = list(writers.map(lambda pair: _write_image(job, storage, shard_id, device, now, *pair), rendered))
    return WrittenBatch(
        rows=[row for row, _, _ in written],
        packed={name: data for _, files, _ in written for name, data in files.items()},
        rejected=[(request, answer.reason) for request, answer in batch if isinstance(answer, Rejection)],
        num_bytes=sum(num_bytes for _, _, num_bytes in written),
        moment=round(now.timestamp() * 1_000_000),
        looks=_looks([answer.verdict for _, answer in rendered if answer.verdict]),
    )


def _looks(verdicts: Sequence[Verdict]) -> Looks:
    return Looks(
        num_candidates=sum(len(verdict.seeds) for verdict in verdicts),
        num_rerolls=sum(verdict.num_tries - 1 for verdict in verdicts),
        seconds=sum(verdict.seconds for verdict in verdicts),
    )


def _write_image(
    job: RenderJob,
    storage: Storage,
    shard_id: str,
    device: str,
    now: datetime,
    request: ImageRequest,
    image: RenderedImage,
) -> tuple[dict[str, Any], dict[str, bytes], int]:
    """One image's manifest row, its files by location if the layout packs them, and their size in bytes.

    For layout files, its files are stored when this returns.
    """
    data = encode_image(image, job.images.format, request, job.recipe)
    files = {location(job.images.layout, shard_id, request.image_id, EXTENSIONS[job.images.format]): data}
    if job.images.keep_latents and image.latents is not None:
        files[location(job.images.layout, shard_id, request.image_id, "npy")] = npy_bytes(image.latents)
    is_packed, locations = job.images.layout != "files", list(files)
    if not is_packed:
        locations = [storage.put_alongside(file_name, file_data) for file_name, file_data in files.items()]
    row = _manifest_row(job, device, now, request, image, locations, data)
    return row, files if is_packed else {}, sum(len(file) for file in files.values())


def _manifest_row(
    job: RenderJob,
    device: str,
    now: datetime,
    request: ImageRequest,
    image: RenderedImage,
    locations: list[str],
    data: bytes,
) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "image_id": request.image_id,
        "prompt_id": request.prompt_id,
        "image_index": request.image_index,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "cfg_weight": request.cfg_weight,
        **sampling_settings(request),
        "model": recipe.checkpoint,
        "model_revision": recipe.revision,
        "weights_sha256": recipe.weights_sha256,
        "vae": recipe.vae,
        "vae_revision": recipe.vae_revision,
        "vae_sha256": recipe.vae_sha256,
        "family": recipe.family,
        "prompt_format": recipe.prompt_format,
        "prompt_template": template_to_json(recipe.prompt_template),
        "protocol": recipe.protocol,
        "reasoning": image.reasoning,
        "adapters": adapters_to_json(recipe.adapters),
        "dtype": recipe.dtype,
        "kv_cache": recipe.kv_cache,
        "sampler": recipe.sampler,
        "image": locations[0],
        "width": image.pixels.shape[1],
        "height": image.pixels.shape[0],
        "image_sha256": hashlib.sha256(data).hexdigest(),
        **picture_statistics(image.pixels),
        "codes": image.codes,
        "latents": locations[1] if len(locations) > 1 else None,
        "device": device,
        "created_at": now,
        **_judge_columns(recipe.judge, image.verdict),
    }


def _judge_columns(judge: Judge | None, verdict: Verdict | None) -> dict[str, Any]:
    """The columns of a judged image; none if the job looks at no image."""
    if judge is None:
        return {}
    assert verdict is not None, "every image of a judged job has a verdict"
    return {
        "judge_score": verdict.score,
        "judge_score_kind": verdict.score_kind,
        "judge_caption": verdict.caption,
        "candidate": verdict.candidate,
        "candidate_seeds": verdict.seeds,
        "candidate_scores": verdict.scores,
        "judge_question": judge.question,
        "judge_model": judge.checkpoint,
        "judge_model_revision": judge.revision,
        "judge_weights_sha256": judge.weights_sha256,
        "judge_prompt_format": judge.prompt_format,
        "judge_family": judge.family,
        "judge_is_own": judge.is_own,
        "judge_looker": judge.looker,
    }
