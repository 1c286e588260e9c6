from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from actors.errors import JobFailure
from actors.understanding.scorers.source import ScorerError
from tests.support.toy_job import make_job, manifest_of, render, write_prompts
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob, Workers
from workflows.scores.run import Scored, score_output
from workflows.scores.scorers import function_scorer
from workflows.storage.damage import DamagedFileError

CODE = """
def brightness(images, rows):
    means = [sum(image.convert("L").getdata()) / (image.width * image.height) for image in images]
    return {"mean": means, "index": [row["image_index"] for row in rows]}

def kills_its_process_once(images, rows):
    import os, pathlib
    mark = pathlib.Path(MARK)
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return [1.0] * len(images)

def always_kills_its_process(images, rows):
    import os
    os._exit(1)

def fails(images, rows):
    raise ValueError("no idea")
"""


class Show:
    """Takes what a run says, and shows nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        yield


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    (tmp_path / "mine.py").write_text(f"MARK = {str(tmp_path / 'mark')!r}\n{CODE}")
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {index}" for index in range(12)]})
    job = make_job(prompts, tmp_path / "out", workers=Workers(max=2, max_tries=1))
    render(job)
    return job


def score(job: RenderJob, function: str) -> Scored:
    name = function[:20]
    return score_output(job, *function_scorer(name, f"{Path(job.output).parent}/mine.py:{function}"), Cluster(), Show())


def scores_of(job: RenderJob, name: str) -> pa.Table:
    return pyarrow.dataset.dataset(f"{job.output}/scores/{name}").to_table()


@pytest.mark.usefixtures("ray_cluster")
def test_every_image_is_scored_once(job: RenderJob) -> None:
    first, second = score(job, "brightness"), score(job, "brightness")

    table = scores_of(job, "brightness")
    assert (first.num_images, first.num_parts) == (12, 3)
    assert (second.num_images, second.num_parts_before) == (0, 3)
    assert table["image_id"].to_pylist() == [row["image_id"] for row in manifest_of(job)]
    assert all(0 < mean < 255 for mean in table["mean"].to_pylist())


@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_run_is_resumed(job: RenderJob) -> None:
    score(job, "brightness")
    parts = sorted(Path(job.output, "scores/brightness").glob("*-*.parquet"))
    data = [part.read_bytes() for part in parts]
    parts[1].unlink()

    resumed = score(job, "brightness")

    assert (resumed.num_images, resumed.num_parts_before) == (4, 2)
    assert [part.read_bytes() for part in parts] == data


@pytest.mark.usefixtures("ray_cluster")
def test_a_part_of_a_lost_actor_is_retried(job: RenderJob) -> None:
    assert score(job, "kills_its_process_once").num_images == 12


@pytest.mark.usefixtures("ray_cluster")
def test_a_scorer_that_kills_every_actor_fails_the_run(job: RenderJob) -> None:
    with pytest.raises(JobFailure, match="a part was tried 2 times and lost its actor: "):
        score(job, "always_kills_its_process")


@pytest.mark.usefixtures("ray_cluster")
def test_code_that_fails_ends_the_run_and_can_be_corrected(job: RenderJob) -> None:
    file = Path(job.output).parent / "mine.py"
    with pytest.raises(ScorerError, match=r"mine.py:fails failed over .*: no idea"):
        score(job, "fails")

    file.write_text("def fails(images, rows):\n    return [1.0] * len(images)")

    assert score(job, "fails").num_images == 12


@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_image_is_not_scored(job: RenderJob) -> None:
    image = Path(job.output, manifest_of(job)[0]["image"])
    image.write_bytes(image.read_bytes()[:-1] + b"x")

    with pytest.raises(DamagedFileError, match="differs from the SHA-256 in its manifest row"):
        score(job, "brightness")
