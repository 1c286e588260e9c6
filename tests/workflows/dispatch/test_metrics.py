"""The metrics at a node's metrics port, and the dashboard that reads them."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from tests.support.toy_job import make_job, plan_job, write_prompts
from workflows.dispatch import metrics
from workflows.dispatch.cluster import Cluster
from workflows.dispatch.loop import render_shards
from workflows.dispatch.metrics import METRICS
from workflows.dispatch.progress import Progress
from workflows.output.claim import claim_output

DASHBOARD = Path(__file__).parents[3] / "deploy/grafana/janus-batch.json"
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
OF_TROUBLE = {"janus_batch_retries", "janus_batch_actors_lost"}  # a job without failures counts none
OF_JUDGES = {"janus_batch_candidates", "janus_batch_look_seconds", "janus_batch_rerolls"}  # nor one without a judge
WAIT_SECONDS = 90


def test_the_dashboard_reads_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    read = set(re.findall(r"ray_(janus_batch_\w+)", queries))

    assert {re.sub(f"({'|'.join(SUFFIXES)})$", "", name) for name in read} == set(METRICS)


@pytest.mark.parametrize("name", ["café", "夜間", "a b\nc", "x" * 300, "nul\x00", "\ud800", ""])
def test_a_job_of_any_name_reports_its_metrics_or_says_that_it_cannot(
    name: str, ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.count("janus_batch_images", name, 1)
    with metrics.timed("janus_batch_write_seconds", name):
        pass
    assert caplog.messages == []


def test_a_metric_that_ray_refuses_is_noted_once(ray_cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        metrics.count("janus_batch_images", "job", -1)
    assert caplog.messages == ["note: a metric was not reported: value must be >0, got -1"]


@pytest.mark.slow
def test_a_job_reports_its_metrics_at_the_nodes_port(tmp_path: Path, ray_cluster: None) -> None:
    """Under a name of which Ray takes the ASCII characters only."""
    prompts = [f"prompt {n} toy:sleep=0.05" + " toy:nan" * (n == 3) for n in range(20)]
    job = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts}), tmp_path / "out", name="métrics")
    claim_output(job, {})
    render_shards(job, plan_job(job), Cluster(), Progress(name=job.name))

    port, found, deadline = ray.nodes()[0]["MetricsExportPort"], set(), time.monotonic() + WAIT_SECONDS
    while not set(METRICS) - OF_TROUBLE - OF_JUDGES <= found:
        assert time.monotonic() < deadline, sorted(set(METRICS) - found)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if r'job_name="m\\xe9trics"' in line]
        found |= {re.sub(f"({'|'.join(SUFFIXES)})$", "", line.split("{")[0].removeprefix("ray_")) for line in lines}
        time.sleep(0.5)
