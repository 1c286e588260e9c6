"""The report of a running job: its newest images, how it is refreshed, and that it never changes how the job ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.batcher import Batcher
from actors.toy import ToyEngine
from tests.support import toy_job
from tests.support.report_page import Page
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import render_shards
from workflows.dispatch.progress import Progress
from workflows.job import Images, RenderJob, Workers
from workflows.output.images import WrittenBatch, write_batch
from workflows.report import live
from workflows.report.page import LiveFacts
from workflows.report.write import write_report
from workflows.storage.store import Storage

FACTS = LiveFacts(
    num_images=5,
    num_total=12,
    num_left=7,
    num_actors=2,
    images_per_second=1.5,
    eta_seconds=75.0,
    written_at=datetime(2026, 1, 1, 12, 30, tzinfo=UTC),
    reload_seconds=10.0,
    stale_seconds=90.0,
)


def claimed(folder: Path, num_prompts: int, **changes: Any) -> RenderJob:
    """A toy job whose output is claimed, of two prompts a shard."""
    prompts = {"prompt": [f"prompt {i} toy:sleep=0.02" for i in range(num_prompts)]}
    path = toy_job.write_prompts(folder / "prompts.parquet", prompts)
    job = toy_job.make_job(path, folder / "out", shard_rows=2, **changes)
    toy_job.claim_output(job, {})
    return job


def written(job: RenderJob, shard: int) -> WrittenBatch:
    """One of the remaining shards, its images written and not committed."""
    rows = toy_job.rows_of(job)[shard]
    [batch] = Batcher(ToyEngine(job.recipe), batch_size=4).render(rows.requests)
    return write_batch(job, rows.shard.id, "cpu", batch)


def live_page(job: RenderJob, *newest: WrittenBatch) -> Page:
    live.write_live_report(job.output, job.storage, FACTS, *newest)
    return Page((Path(job.output) / "report.html").read_text())


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_images_are_shown_before_they_are_committed_and_the_newest_come_first(tmp_path: Path, layout: str) -> None:
    job = claimed(tmp_path, 6, images=Images(layout=layout))
    toy_job.render_shard(job, next(toy_job.plan_job(job).remaining_shards()))
    batch = written(job, 0)

    page = live_page(job, batch)

    assert [image_id[-3] for image_id in page.images["id"]] == ["2", "3", "0", "1"]
    assert [thumbnail.size for thumbnail in page.thumbnails()] == [(64, 64)] * 4


def test_an_image_that_was_committed_meanwhile_is_shown_once(tmp_path: Path) -> None:
    job = claimed(tmp_path, 2)
    batch = written(job, 0)
    toy_job.render(job)
    assert sorted(live_page(job, batch).images["id"]) == ["prompts-000000000_0", "prompts-000000001_0"]


def test_the_page_of_a_job_without_committed_images_has_its_counts(tmp_path: Path) -> None:
    job = claimed(tmp_path, 4)

    page = live_page(job, written(job, 0))

    assert "Rendering" in page.text
    assert "Images 5 Left 7 Rejected 0 Images per second 1.5 Time left 1 min 15 s Actors 2" in page.text
    assert "This page reloads itself while the job runs; written at 12:30:00 UTC." in page.text
    assert page.data["live"]["reloadSeconds"] == 10


def test_the_page_shows_the_newest_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_IMAGES", 3)
    job = claimed(tmp_path, 8)
    toy_job.render(job)

    page = live_page(job)

    assert [image_id[-3] for image_id in page.images["id"]] == ["6", "7", "4"]
    assert "This page shows the newest 3 images." in page.text


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh as soon as anything changes."""
    for name in ("FIRST_SECONDS", "SHORTEST_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(live, name, 0.01)


def render(job: RenderJob) -> tuple[list[str], list[str]]:
    """Render on the Ray that is running; the lines that were said, and the pages that were announced."""
    lines: list[str] = []
    pages: list[str] = []
    progress, cluster = Progress(num_images_total=12), Cluster()
    with live.refreshing_report(job, cluster, progress, lines.append, pages.append):
        render_shards(job, toy_job.plan_job(job), cluster, progress)
    return lines, pages


@pytest.mark.usefixtures("ray_cluster", "at_once")
def test_the_report_is_refreshed_on_the_cluster_while_the_job_renders(tmp_path: Path) -> None:
    job = claimed(tmp_path, 120, workers=Workers(max=1, batch_size=2))

    lines, pages = render(job)

    page = Page((Path(job.output) / "report.html").read_text())
    assert (lines, pages) == ([], [f"{job.output}/report.html"])
    assert page.data["live"] is not None
    assert sorted(path.name for path in Path(job.output).iterdir()) == ["images", "job.json", "manifest", "report.html"]
    assert write_report(Storage(job.output)).num_images == 120


def fail(*arguments: object) -> float:
    raise OSError("the disk is on fire")


def take_an_hour(url: str, *arguments: object) -> float:
    (Path(url) / ".report.html.00000000.draft").touch()
    time.sleep(3600)
    return 3600.0


@pytest.mark.usefixtures("ray_cluster", "at_once")
def test_a_refresh_that_fails_is_a_note_and_the_job_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "write_live_report", fail)
    job = claimed(tmp_path, 60, workers=Workers(max=1, batch_size=2))

    lines, pages = render(job)

    assert (lines, pages) == (["note: the report was not refreshed: the disk is on fire"], [])
    assert len(toy_job.manifest_of(job)) == 60


@pytest.mark.usefixtures("ray_cluster", "at_once")
def test_the_end_of_a_job_waits_for_no_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "write_live_report", take_an_hour)
    job = claimed(tmp_path, 60, workers=Workers(max=1, batch_size=2))

    lines, pages = render(job)

    assert (lines, pages) == ([], [])
    assert not list(Path(job.output).glob("report.html*"))
