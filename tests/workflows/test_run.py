"""The main path on a real Ray: what a run shows, what it leaves in the output, and what it refuses at first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import InputError
from actors.toy import ToyEngine
from tests.support.recording_cluster import RecordingCluster
from tests.support.servers.faulty_proxy import FaultyProxy
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of, faults_of, make_job, manifest_of, rejected_of, write_prompts
from tests.workflows.test_retry_rejected import Fixed
from workflows.dispatch.actor import EngineActor
from workflows.dispatch.progress import Progress
from workflows.dispatch.ray_start import ClusterError
from workflows.job import RenderJob, Workers
from workflows.output.acceptance import NoImagesError
from workflows.output.claim import OtherJobError
from workflows.plan import Plan
from workflows.prompts import PromptsError
from workflows.run import Result, run_job, run_retries
from workflows.storage import retry
from workflows.storage.errors import StorageFailure
from workflows.storage.lease import OutputRemovedError
from workflows.storage.store import Storage


class RecordingShow:
    """Records what a run tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.plans: list[tuple[Plan, bool]] = []
        self.progresses: list[Progress] = []
        self.results: list[Result] = []
        self.reports: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        self.plans.append((plan, is_resumed))

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        self.progresses.append(progress)
        yield

    def report(self, url: str) -> None:
        self.reports.append(url)

    def result(self, result: Result) -> None:
        self.results.append(result)


class FixedActor(EngineActor):
    """An actor whose engine renders the images that the toy engine rejected."""

    def open_models(self) -> tuple[ToyEngine, None]:
        return Fixed(self.job.recipe), None


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    """Two shards; one row of the first is rejected."""
    prompts = [f"prompt {n}" for n in range(8)]
    prompts[2] = "toy:nan c"
    return make_job(
        write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts}), tmp_path / "out", workers=Workers(max=1)
    )


def test_a_run_shows_its_plan_its_progress_and_its_result(job: RenderJob, ray_cluster: None) -> None:
    show = RecordingShow()

    run_job(job, {}, RecordingCluster(), show)
    phases = ["planning", "starting Ray", "loading", "rendering", "writing", "checking", "report"]
    assert list(show.results[0].phases) == phases

    ((plan, is_resumed),) = show.plans
    (result,) = show.results
    assert (plan.num_rows, plan.num_shards_remaining, is_resumed) == (8, 2, False)
    assert show.lines == ["writing the report ..."]  # the Ray of the tests is running
    assert (result.tally.num_images, result.tally.num_rejected, result.progress.num_images) == (7, 1, 7)
    assert show.progresses == [result.progress]
    assert result.report == f"{job.output}/report.html"
    assert {"job.json", "_SUCCESS", "report.html"} <= bytes_of(job.output).keys()


def test_a_run_of_a_finished_output_starts_no_actor(job: RenderJob, ray_cluster: None) -> None:
    run_job(job, {}, RecordingCluster(), RecordingShow())
    cluster, show = RecordingCluster(), RecordingShow()

    run_job(job, {}, cluster, show)

    assert cluster.handles == []
    assert show.plans[0][1]
    assert show.progresses == []
    assert (show.results[0].tally.num_images, show.results[0].progress.num_images) == (7, 0)


def test_a_retry_renders_rejected_images_and_a_second_one_has_nothing_to_do(job: RenderJob, ray_cluster: None) -> None:
    run_job(job, {}, RecordingCluster(), RecordingShow())
    first, second = RecordingShow(), RecordingShow()

    assert run_retries(job, RecordingCluster(FixedActor), first).num_rendered == 1
    assert run_retries(job, RecordingCluster(FixedActor), second).num_rendered == 0

    assert first.lines[0] == "toy: images rejected: 1, shards to retry: 1"
    assert "done: 1 rendered, 0 still rejected" in first.lines
    assert second.lines == ["toy: no rejected images, nothing to retry"]
    assert (len(manifest_of(job)), rejected_of(job)) == (8, [])


@pytest.mark.parametrize("prompts", [["toy:nan a", "toy:nan b", ""], [None] * 5], ids=["by the engine", "unread"])
def test_a_job_of_which_every_image_is_rejected_fails_with_the_reasons_each_time(
    prompts: list[str | None], tmp_path: Path, ray_cluster: None
) -> None:
    job = make_job(write_prompts(tmp_path / "p.parquet", {"prompt": pa.array(prompts, pa.string())}), tmp_path / "out")

    for _ in range(2):
        with pytest.raises(NoImagesError, match=rf"holds no image: all {len(prompts)} that .*\n\d x ") as raised:
            run_job(job, {}, RecordingCluster(), RecordingShow())
        assert "retry-rejected" in raised.value.advice
        assert {"_SUCCESS", "report.html"} & bytes_of(job.output).keys() == {"report.html"}


def test_retries_of_a_job_without_images_finish_it_or_fail_with_the_reasons(tmp_path: Path, ray_cluster: None) -> None:
    job = make_job(write_prompts(tmp_path / "p.parquet", {"prompt": ["toy:nan a", "toy:nan b"]}), tmp_path / "out")
    with pytest.raises(NoImagesError):
        run_job(job, {}, RecordingCluster(), RecordingShow())
    same, fixed = RecordingShow(), RecordingShow()

    with pytest.raises(NoImagesError):
        run_retries(job, RecordingCluster(), same)
    assert "done: 0 rendered, 2 still rejected" in same.lines
    assert any(line.startswith("rejected  2 x ") for line in same.lines)
    assert "_SUCCESS" not in bytes_of(job.output)

    assert run_retries(job, RecordingCluster(FixedActor), fixed).num_shards_gone == 0
    assert "done: 2 rendered, 0 still rejected" in fixed.lines
    assert "_SUCCESS" in bytes_of(job.output)


def test_a_job_without_prompts_is_done(tmp_path: Path, ray_cluster: None) -> None:
    job = make_job(write_prompts(tmp_path / "p.parquet", {"prompt": pa.array([], pa.string())}), tmp_path / "out")
    run_job(job, {}, RecordingCluster(), show := RecordingShow())
    assert (show.results[0].tally.num_images, "_SUCCESS" in bytes_of(job.output)) == (0, True)


def test_a_report_that_cannot_be_written_is_a_note(
    job: RenderJob, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(job.output, "report.html").mkdir(parents=True)
    run_job(job, {}, RecordingCluster(), show := RecordingShow())

    assert show.results[0].report is None
    assert any(line.startswith("note: the report was not written: ") for line in show.lines)
    assert "_SUCCESS" in bytes_of(job.output)


# ---- storage that is away at the start -------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [("GET", "HEAD", "PUT", "DELETE"), ("PUT",)], ids=["prompts", "claim"])
@pytest.mark.parametrize("fault", ["reset", "SlowDown", "InternalError"])
def test_a_store_that_is_away_before_the_first_shard_is_waited_for(
    fault: str,
    methods: tuple[str, ...],
    s3_server: S3Server,
    s3_folder: str,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.05)
    write_prompts_on_s3(s3_server, f"{s3_folder}/prompts/p.parquet")
    with FaultyProxy(s3_server.port).running() as proxy:
        job = job_on_s3(proxy, s3_folder, storage_retry_seconds=120)
        fails = iter([True] * 3)
        proxy.choose = lambda method, path: fault if method in methods and next(fails, False) else None
        run_job(job, {}, RecordingCluster(), show := RecordingShow())

    assert proxy.faults[fault] == 3
    assert (show.results[0].tally.num_images, show.results[0].tally.num_rejected) == (4, 0)
    assert any(line.startswith(f"waiting for storage at {s3_folder}") for line in show.lines)


def test_a_store_that_stays_away_fails_the_job_after_one_budget(s3_server: S3Server, s3_folder: str) -> None:
    write_prompts_on_s3(s3_server, f"{s3_folder}/prompts/p.parquet")
    with FaultyProxy(s3_server.port).running() as proxy:
        job = job_on_s3(proxy, s3_folder, storage_retry_seconds=3)
        proxy.choose = lambda method, path: "SlowDown"
        began = time.monotonic()
        with pytest.raises(StorageFailure, match=f"storage at {s3_folder}/prompts did not answer for . seconds"):
            run_job(job, {}, RecordingCluster(), RecordingShow())
        assert time.monotonic() - began < 20


def test_a_bucket_that_does_not_exist_is_refused_at_once(s3_server: S3Server) -> None:
    with FaultyProxy(s3_server.port).running() as proxy:
        job = job_on_s3(proxy, "s3://no-such-bucket-here", storage_retry_seconds=300)
        with pytest.raises(InputError):
            run_job(job, {}, RecordingCluster(), show := RecordingShow())
    assert show.lines == []


def write_prompts_on_s3(server: S3Server, url: str) -> None:
    with fsspec.open(url, "wb", **server.storage_options) as file:
        pq.write_table(pa.table({"prompt": ["a", "b", "c", "d"]}), file)


def job_on_s3(proxy: FaultyProxy, folder: str, **workers: Any) -> RenderJob:
    """Prompts and output behind the proxy. The client makes one try a call, so that each fault counts."""
    options = {"endpoint_url": proxy.endpoint_url, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    return make_job(f"{folder}/prompts", f"{folder}/out", storage=options, workers=Workers(max=1, **workers))


def test_an_output_that_disappears_while_it_is_rendered_fails_the_run_and_can_be_resumed(
    job: RenderJob, ray_cluster: None
) -> None:
    class RemovingShow(RecordingShow):
        @contextmanager
        def progress(self, progress: Progress) -> Iterator[None]:
            yield
            kept, *parts = Path(job.output).glob("manifest/*.parquet")  # as if it was committed just after the removal
            for path in [*parts, *Path(job.output).glob(f"images/{kept.stem}/*"), Path(job.output, "job.json")]:
                path.unlink()

    with pytest.raises(OutputRemovedError, match="were removed while"):
        run_job(job, {}, RecordingCluster(), RemovingShow())
    run_job(job, {}, RecordingCluster(), show := RecordingShow())

    assert show.plans[0][1]
    assert len(manifest_of(job)) == 7
    assert all(Path(job.output, row["image"]).exists() for row in manifest_of(job))
    assert not Path(job.output, "_removed").exists()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A folder on a local disk or an S3 store, and its storage options."""
    if request.param == "local":
        return str(tmp_path), {}
    return request.getfixturevalue("s3_folder"), request.getfixturevalue("s3_server").storage_options


@pytest.mark.parametrize("folder", ["images", "rejected", "manifest"])
@pytest.mark.parametrize("num_before", [0, 1])
def test_a_folder_that_is_removed_while_a_run_renders_fails_it_and_the_next_run_restores_it(
    job: RenderJob, place: tuple[str, dict[str, Any]], folder: str, num_before: int, ray_cluster: None
) -> None:
    url, options = place
    job = replace(job, output=f"{url}/out", storage=options)
    storage = Storage(job.output, job.storage)

    class RemovingShow(RecordingShow):
        @contextmanager
        def progress(self, progress: Progress) -> Iterator[None]:
            if num_before:  # only what another run has committed is lost
                storage.fs.rm(storage.path(folder), recursive=True)
            yield
            if not num_before:
                storage.fs.rm(storage.path(folder), recursive=True)

    if num_before:
        run_job(job, {}, RecordingCluster(), RecordingShow())
        part = max(storage.names("manifest"))  # of the shard without rejected rows
        storage.remove(f"manifest/{part}")
        storage.fs.rm(storage.path(f"images/{part.removesuffix('.parquet')}"), recursive=True)
    with pytest.raises(OutputRemovedError, match=rf"^files of {url}/out were removed while the job was running; "):
        run_job(job, {}, RecordingCluster(), RemovingShow())
    assert not storage.exists("_SUCCESS")
    run_job(job, {}, RecordingCluster(), show := RecordingShow())

    assert (show.results[0].tally.num_images, show.results[0].tally.num_rejected) == (7, 1)
    assert faults_of(job) == []


def test_bad_prompts_are_refused_before_the_output_is_claimed(tmp_path: Path) -> None:
    job = make_job(tmp_path / "nothing", tmp_path / "out")

    with pytest.raises(PromptsError):
        run_job(job, {}, RecordingCluster(), RecordingShow())

    assert not Path(job.output).exists()


def test_missing_gpus_are_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = make_job(tmp_path / "nothing", tmp_path / "out", workers=Workers(gpus_per_actor=1))

    with pytest.raises(ClusterError, match="this machine has 0 GPUs, got 1"):
        run_job(job, {}, RecordingCluster(), RecordingShow())


def test_the_output_of_another_job_is_refused(job: RenderJob, tmp_path: Path, ray_cluster: None) -> None:
    run_job(job, {}, RecordingCluster(), RecordingShow())
    before = bytes_of(job.output)
    other = make_job(write_prompts(tmp_path / "other.parquet", {"prompt": ["a"]}), job.output)

    with pytest.raises(OtherJobError, match="prompts"):
        run_job(other, {}, RecordingCluster(), RecordingShow())

    assert bytes_of(job.output) == before
