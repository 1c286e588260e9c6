"""Retries of rejected rows: every image once, the same ids and seeds, and the shard's own part is untouched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.batcher import Batcher
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.toy import ToyEngine
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.commit import Receipt, commit_shard
from workflows.output.images import write_batch
from workflows.output.layouts import LAYOUTS
from workflows.output.manifest import committed_parts, remove_superseded
from workflows.output.tally import tally_output
from workflows.plan import RetryPlan, Shard
from workflows.prompt_files.read import planned_footer
from workflows.prompts import PromptsError, find_prompt_files
from workflows.report.rejections import collect_rejections
from workflows.report.write import gather_facts
from workflows.retry_rejected import plan_retries, read_rejected
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output

PROMPTS = {"prompt": ["a", "toy:nan b", None, "toy:nan toy:more d", "e", "f"], "id": list("abcdef")}


class Fixed(ToyEngine):
    """The toy engine after a fix: it renders the images that it rejected, except of prompts with `toy:more`."""

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        asked = [r if "toy:more" in r.prompt else dataclasses.replace(r, prompt=r.prompt[8:]) for r in requests]
        return super().render(asked)


class HalfFixed(Fixed):
    """Renders the first `num_fixed` images of a prompt, and rejects the others as before."""

    num_fixed = 1

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        unfixed = ToyEngine.render(self, requests)
        pairs = zip(requests, super().render(requests), unfixed, strict=True)
        return [fixed if request.image_index < self.num_fixed else before for request, fixed, before in pairs]


@pytest.fixture(params=LAYOUTS)
def job(tmp_path: Path, request: pytest.FixtureRequest) -> RenderJob:
    """A finished output of two shards; three rows of the first are rejected, with two images each."""
    path = write_prompts(tmp_path / "prompts.parquet", PROMPTS)
    two_each = recipe(images_per_prompt=2)
    job = make_job(path, tmp_path / "out", recipe=two_each, images=Images(layout=request.param))
    render(job)
    return job


def retries_of(job: RenderJob) -> RetryPlan:
    storage = Storage(job.output)
    return plan_retries(storage, find_prompt_files(job.prompts, {}))[0]


def test_a_retry_requests_the_rejected_images_and_no_others(job: RenderJob) -> None:
    assert sum(shard.num_images(job.recipe.images_per_row) for shard in retries_of(job).shards) == 6


def retry_shard(job: RenderJob, shard: Shard, engine: ToyEngine) -> Receipt:
    rows = read_rejected(job, shard)
    written = [write_batch(job, shard.id, "cpu", batch) for batch in Batcher(engine).render(rows.requests)]
    return commit_shard(job, rows, *written)


def retry(job: RenderJob, engine: type[ToyEngine] = Fixed) -> list[Receipt]:
    receipts = [retry_shard(job, shard, engine(job.recipe)) for shard in retries_of(job).remaining_shards()]
    remove_superseded(Storage(job.output))
    return receipts


def verify(job: RenderJob) -> Findings:
    return verify_output(Storage(job.output), plan_job(job), job.recipe)


def test_a_retry_renders_what_it_can_and_every_row_is_counted_once(job: RenderJob) -> None:
    before = bytes_of(job.output)
    assert verify(job) == Findings(num_images=6, num_rejected=6)

    (receipt,) = retry(job)

    after = bytes_of(job.output)
    assert (receipt.num_images, receipt.num_rejected, receipt.is_first) == (2, 4, True)
    assert {name: after[name] for name in before if not name.startswith("rejected/")} == {
        name: data for name, data in before.items() if not name.startswith("rejected/")
    }
    assert verify(job) == Findings(num_images=8, num_rejected=4)
    tally = tally_output(job.output, {})
    assert (tally.num_shards, tally.num_images, tally.num_rejected) == (2, 8, 4)
    rejections = collect_rejections(Storage(job.output), committed_parts(Storage(job.output)))
    assert dict(rejections.num_images) == {"the model's numbers became NaN": 2, "prompt is null": 2}
    assert plan_job(job).num_shards_remaining == 0


def test_the_report_counts_a_prompt_with_images_of_a_retry_once(job: RenderJob) -> None:
    storage = Storage(job.output)
    assert gather_facts(storage).survey.num_prompts == 3

    retry(job, HalfFixed)
    assert gather_facts(storage).survey.num_prompts == 4  # b has its first image
    retry(job)

    survey = gather_facts(storage).survey
    assert (len(survey.shards), survey.num_prompts, survey.num_images) == (4, 4, 8)


def test_the_images_have_the_ids_and_seeds_they_would_have_had(job: RenderJob, tmp_path: Path) -> None:
    plain = {**PROMPTS, "prompt": ["a", "b", None, "d", "e", "f"]}
    path = write_prompts(tmp_path / "plain.parquet", plain)
    render(whole := make_job(path, tmp_path / "whole", recipe=job.recipe))
    wanted = {row["image_id"]: row["seed"] for row in manifest_of(whole) if row["prompt_id"] in "abef"}

    retry(job)

    assert {row["image_id"]: row["seed"] for row in manifest_of(job)} == wanted


def test_a_retry_without_success_changes_nothing_and_can_be_repeated(job: RenderJob) -> None:
    before = bytes_of(job.output)

    (receipt,) = retry(job, ToyEngine)

    assert (receipt.num_images, receipt.is_first) == (0, False)
    assert bytes_of(job.output) == before


def test_a_retry_continues_from_the_one_before(job: RenderJob) -> None:
    retry(job)
    before = bytes_of(job.output)

    assert [shard.retry for shard in retries_of(job).remaining_shards()] == [2]
    retry(job)
    assert bytes_of(job.output) == before

    (shard,) = retries_of(job).remaining_shards()
    assert {request.prompt_id for request in read_rejected(job, shard).requests} == {"d"}
    assert {row.prompt_id for row in read_rejected(job, shard).rejected} == {"c"}


def test_the_first_of_two_concurrent_retries_wins(job: RenderJob) -> None:
    (shard,) = retries_of(job).remaining_shards()
    late = read_rejected(job, shard)

    retry(job)
    before = bytes_of(job.output)
    written = [write_batch(job, shard.id, "late", batch) for batch in Batcher(Fixed(job.recipe)).render(late.requests)]
    receipt = commit_shard(job, late, *written)

    assert not receipt.is_first
    assert bytes_of(job.output) == before
    assert verify(job) == Findings(num_images=8, num_rejected=4)


def test_a_prompt_file_that_was_changed_meanwhile_is_refused_by_name(job: RenderJob, tmp_path: Path) -> None:
    (shard,) = retries_of(job).remaining_shards()
    write_prompts(tmp_path / "prompts.parquet", {**PROMPTS, "prompt": ["other"] * 6})
    planned_footer.cache_clear()  # as in another process, which has not read the file yet

    with pytest.raises(PromptsError, match=r"prompts.parquet was changed after this job was planned"):
        read_rejected(job, shard)


def test_a_killed_retry_leaves_orphans_and_the_next_one_finishes(job: RenderJob) -> None:
    (shard,) = retries_of(job).remaining_shards()
    rows = read_rejected(job, shard)
    for batch in Batcher(Fixed(job.recipe)).render(rows.requests):
        write_batch(job, shard.id, "cpu", batch)
    assert verify(job).num_rejected == 6

    retry(job)

    assert verify(job) == Findings(num_images=8, num_rejected=4)


def test_a_retry_gives_the_ids_that_rows_have_from_the_long_name_of_their_file(tmp_path: Path) -> None:
    """A name that is too long for ids is shortened."""
    path = write_prompts(tmp_path / f"{'x' * 190}.parquet", {"prompt": ["a", "toy:nan b"]})
    job = make_job(path, tmp_path / "out")
    render(job)

    retry(job)

    ids = [row["prompt_id"] for row in manifest_of(job)]
    assert [prompt_id.rpartition("-")[2] for prompt_id in ids] == ["000000000", "000000001"]
    assert len({prompt_id.rpartition("-")[0] for prompt_id in ids}) == 1
