"""The main path on a real Ray: what a run shows, what it leaves in the output, and what it refuses at first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.toy import ToyEngine
from tests.support.recording_cluster import RecordingCluster
from tests.support.toy_job import bytes_of, make_job, manifest_of, rejected_of, write_prompts
from tests.workflows.test_retry_rejected import Fixed
from workflows.dispatch.actor import EngineActor
from workflows.dispatch.cluster import ClusterError
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob, Workers
from workflows.output.claim import OtherJobError
from workflows.plan import Plan
from workflows.prompts import PromptsError
from workflows.run import Result, run_job, run_retries
from workflows.storage.lease import OutputRemovedError


class RecordingShow:
    """Records what a run tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.plans: list[tuple[Plan, bool]] = []
        self.progresses: list[Progress] = []
        self.results: list[Result] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        self.plans.append((plan, is_resumed))

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        self.progresses.append(progress)
        yield

    def result(self, result: Result) -> None:
        self.results.append(result)


class FixedActor(EngineActor):
    """An actor whose engine renders the images that the toy engine rejected."""

    def open_engine(self) -> ToyEngine:
        return Fixed(self.job.recipe)


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

    ((plan, is_resumed),) = show.plans
    (result,) = show.results
    assert (plan.num_rows, plan.num_shards_remaining, is_resumed) == (8, 2, False)
    assert show.lines == ["starting Ray ...", "writing the report ..."]
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

    assert run_retries(job, RecordingCluster(FixedActor), first)
    assert run_retries(job, RecordingCluster(FixedActor), second)

    assert first.lines[0] == "toy: images rejected: 1, shards to retry: 1"
    assert "done: 1 rendered, 0 still rejected" in first.lines
    assert second.lines == ["toy: no rejected images, nothing to retry"]
    assert (len(manifest_of(job)), rejected_of(job)) == (8, [])


def test_an_output_that_disappears_while_it_is_rendered_fails_the_run_and_can_be_resumed(
    job: RenderJob, ray_cluster: None
) -> None:
    class RemovingShow(RecordingShow):
        @contextmanager
        def progress(self, progress: Progress) -> Iterator[None]:
            yield
            for path in Path(job.output).rglob("*.parquet"):
                path.unlink()
            Path(job.output, "job.json").unlink()

    with pytest.raises(OutputRemovedError, match="were removed while"):
        run_job(job, {}, RecordingCluster(), RemovingShow())
    run_job(job, {}, RecordingCluster(), show := RecordingShow())

    assert show.plans[0][1]
    assert len(manifest_of(job)) == 7


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
