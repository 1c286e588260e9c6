"""The tally of an output, from the footers of its manifest and its rejected rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import make_job, plan_job, recipe, render, render_shard, write_prompts
from workflows.output.tally import tally_output
from workflows.storage.damage import DamagedFileError
from workflows.storage.errors import StorageError
from workflows.storage.store import Storage

PROMPTS = {"prompt": ["a", None, "toy:nan", "d", "e", None], "id": list("abcdef")}
REASONS = {"prompt is null": 4, "the model's numbers became NaN": 2}


def test_images_and_rejected_images_are_counted_by_shard_and_reason(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", PROMPTS)
    job = make_job(path, tmp_path / "out", recipe=recipe(images_per_prompt=2))
    receipts = render(job)

    tally = tally_output(job.output, {})

    assert (tally.num_shards, tally.num_images, tally.num_rejected) == (2, 6, 6)
    assert dict(tally.reasons) == REASONS
    assert tally.num_images == sum(receipt.num_images for receipt in receipts)
    assert tally.num_rejected == sum(receipt.num_rejected for receipt in receipts)


def test_shards_that_are_not_committed_do_not_count(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", PROMPTS), tmp_path / "out")
    first, second = plan_job(job).remaining_shards()
    render_shard(job, first)
    render_shard(job, second)
    Storage(job.output).remove(f"manifest/{second.id}.parquet")

    tally = tally_output(job.output, {})

    assert (tally.num_shards, tally.num_images, tally.num_rejected) == (1, 2, 2)


def test_an_empty_output_counts_nothing(tmp_path: Path) -> None:
    tally = tally_output(str(tmp_path / "nothing"), {})

    assert (tally.num_shards, tally.num_images, tally.num_rejected) == (0, 0, 0)


def test_an_output_on_s3_is_counted(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", PROMPTS)
    job = make_job(path, f"{s3_folder}/out", storage=s3_server.storage_options)
    render(job)

    assert tally_output(job.output, job.storage).num_images == 3


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", PROMPTS), tmp_path / "out")
    receipt, *_ = render(job)
    Storage(job.output).write(f"manifest/{receipt.shard_id}.parquet", b"no parquet")

    with pytest.raises(DamagedFileError, match=rf"/out/manifest/{receipt.shard_id}.parquet is no Parquet file"):
        tally_output(job.output, {})


def test_an_error_names_the_store_that_cannot_be_opened() -> None:
    with pytest.raises(StorageError, match=r"s4://bucket/out cannot be used: Protocol not known: s4"):
        tally_output("s4://bucket/out", {})
