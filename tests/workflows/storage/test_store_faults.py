"""A store that is busy, slow, breaks connections or is away: waited for, and the same bytes in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.batcher import Batcher
from actors.toy import ToyEngine
from tests.support import toy_job
from tests.support.servers.faulty_proxy import FAULTS, FaultyProxy, at_random
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import make_job, manifest_of, plan_job, rows_of, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.claim import claim_output
from workflows.output.commit import commit_shard
from workflows.output.images import write_batch
from workflows.rows import read_shard
from workflows.storage import retry
from workflows.storage.errors import StorageError, StorageFailure
from workflows.storage.retry import retry_storage
from workflows.storage.store import Storage
from workflows.verify.check import verify_output

NUM_ROWS = 16


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.05)
    with FaultyProxy(s3_server.port, slow_seconds=0.2).running() as proxy:
        yield proxy


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    columns = {"prompt": [f"prompt {n}" for n in range(NUM_ROWS)], "id": [f"row{n}" for n in range(NUM_ROWS)]}
    columns["prompt"][5], columns["prompt"][6] = "toy:nan", None
    return write_prompts(tmp_path / "prompts.parquet", columns)


def job_through(proxy: FaultyProxy, prompts: str, folder: str, **changes: object) -> RenderJob:
    return make_job(prompts, f"{folder}/out", storage={"endpoint_url": proxy.endpoint_url}, shard_rows=8, **changes)


def render_with_retries(job: RenderJob) -> None:
    """The path of each shard as the job's tasks go it."""
    for shard in plan_job(job).remaining_shards():
        rows = retry_storage(job.prompts, 60, read_shard, job, shard)
        batches = Batcher(ToyEngine(job.recipe), batch_size=4).render(rows.requests)
        written = [retry_storage(job.output, 60, write_batch, job, shard.id, "cpu", batch) for batch in batches]
        retry_storage(job.output, 60, commit_shard, job, rows, *written)


def hashes_of(job: RenderJob) -> dict[str, str]:
    rows = manifest_of(job)
    hashes = {row["image_id"]: row["image_sha256"] for row in rows}
    assert len(hashes) == len(rows)
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "faults"), [("files", FAULTS), ("webdataset", FAULTS), ("files", ("lost answer",))])
def test_transient_errors_of_a_store_change_no_byte(
    proxy: FaultyProxy, prompts: str, s3_folder: str, tmp_path: Path, layout: str, faults: tuple[str, ...]
) -> None:
    job = job_through(proxy, prompts, s3_folder, images=Images(layout=layout))
    claim_output(job, {})
    proxy.choose = at_random(7, 0.2, faults)

    render_with_retries(job)

    proxy.choose = lambda method, path: None
    assert proxy.faults.total() > 0
    toy_job.render(calm := make_job(prompts, tmp_path / "calm", shard_rows=8))
    assert hashes_of(job) == hashes_of(calm)
    findings = verify_output(Storage(job.output, job.storage), plan_job(job), job.recipe)
    assert findings.is_whole
    assert findings.orphans == []


def test_a_put_whose_answer_is_lost_still_wins(proxy: FaultyProxy, s3_folder: str) -> None:
    """The second try is refused by the first, which had been done; the bytes that are there say whose they are."""
    storage = Storage(s3_folder, {"endpoint_url": proxy.endpoint_url})
    answers = iter(["lost answer"])
    proxy.choose = lambda method, path: next(answers, None) if method == "PUT" else None

    assert storage.create("manifest/part.parquet", b"ours")
    assert not storage.create("manifest/part.parquet", b"theirs")
    assert proxy.faults == {"lost answer": 1}


def test_a_store_that_stays_busy_too_long_fails_the_step(proxy: FaultyProxy, prompts: str, s3_folder: str) -> None:
    job = job_through(proxy, prompts, s3_folder)
    claim_output(job, {})
    (rows, *_) = rows_of(job)
    (batch,) = Batcher(ToyEngine(job.recipe)).render(rows.requests)
    proxy.choose = lambda method, path: "SlowDown"

    with pytest.raises(StorageFailure, match=r"did not answer for 0 seconds .*on purpose"):
        retry_storage(job.output, 0.0, write_batch, job, rows.shard.id, "cpu", batch)


# ---- how often a store is asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "most_puts"), [("files", NUM_ROWS - 2 + 2 + 1), ("webdataset", 2 + 2 + 1)])
def test_a_shard_sends_one_request_per_image_and_a_few_more(
    proxy: FaultyProxy, prompts: str, s3_folder: str, layout: str, most_puts: int
) -> None:
    """One PUT an image (or a pack), one a manifest part, one for the shard that has rejected rows."""
    job = job_through(proxy, prompts, s3_folder, images=Images(layout=layout))
    claim_output(job, {})
    shards = list(plan_job(job).remaining_shards())
    proxy.requests.clear()

    for shard in shards:
        toy_job.render_shard(job, shard)

    methods = Counter(method for method, _ in proxy.requests)
    assert methods["PUT"] == most_puts
    assert methods.total() - methods["PUT"] <= 3 * len(shards)  # has this shard been committed meanwhile?


# ---- stores that cannot create ---------------------------------------------------------------------------------------


def test_a_store_that_ignores_the_condition_is_refused_before_anything_is_rendered(
    s3_server: S3Server, prompts: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `rclone serve s3` does: every creator wins. The condition is taken off each PUT, the store is the real one."""
    _forget_conditions(monkeypatch)
    options = {**s3_server.storage_options, "default_fill_cache": False}  # a client of its own
    job = make_job(prompts, f"{s3_folder}/out", storage=options)

    with pytest.raises(StorageError, match=r"does not refuse to create a file that exists .*conditional_create: f"):
        claim_output(job, {})
    assert Storage(job.output, job.storage).walk("") == {}


def _forget_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    real = s3fs.S3FileSystem._pipe_file

    async def pipe_file(self: object, path: str, data: bytes, *, mode: str = "overwrite", **options: object) -> object:
        return await real(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", pipe_file)
