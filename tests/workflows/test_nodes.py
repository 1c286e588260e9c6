"""Nodes that join and leave a cluster while a job runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import finish, run, start, wait_until, write_job
from tests.servers.ray_head import RayHead
from tests.toy_job import write_prompts

NUM_SHARDS = 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_waits_for_a_node_and_loses_no_try_when_its_node_goes_away(tmp_path: Path) -> None:
    prompts = [f"prompt {n} toy:sleep=0.1" for n in range(5 * NUM_SHARDS)]
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    workers = {"max": 2, "batch_size": 2, "max_tries": 1}
    job = write_job(tmp_path / "job.yaml", path, tmp_path / "out", workers=workers, shard_rows=5)

    def num_committed() -> int:
        return len(list((tmp_path / "out" / "manifest").glob("*.parquet")))

    cluster = RayHead(tmp_path / "ray.out", num_cpus=0)
    try:
        cluster.start()
        driver = start("render", job, "--address", cluster.address)
        first = cluster.add_node(num_cpus=1)
        wait_until(lambda: num_committed() >= 2, driver)
        cluster.cut_power(first)
        num_before = num_committed()
        cluster.add_node(num_cpus=1)
        answer = finish(driver)
    finally:
        cluster.stop()

    assert answer.returncode == 0, answer.stderr
    assert num_before < NUM_SHARDS
    assert "retries (" in answer.stderr
    assert run("verify", tmp_path / "out").returncode == 0
