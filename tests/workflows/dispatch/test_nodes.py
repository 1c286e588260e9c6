"""Nodes that join and leave the cluster while a job runs: cut off, drained, or without power."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import toy_job
from tests.support.command import JANUS_BATCH, finish, run, start, wait_until, write_job
from tests.support.servers import hosts
from tests.support.servers.hosts import RAY_FOLDER, Hosts, ray_node
from tests.support.servers.process import wait_for
from tests.support.servers.ray_head import PROGRAMS, RayHead
from tests.support.toy_job import make_job, manifest_of, write_prompts

NUM_SHARDS = 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_waits_for_a_node_and_uses_up_no_try_when_it_loses_one(tmp_path: Path) -> None:
    sleeps = [0.5 if 10 <= n < 25 else 0.05 for n in range(5 * NUM_SHARDS)]  # long ones while the power is cut
    prompts = [f"prompt {n} toy:sleep={seconds}" for n, seconds in enumerate(sleeps)]
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    workers = {"max": 2, "batch_size": 2, "max_tries": 1}
    job = write_job(tmp_path / "job.yaml", path, tmp_path / "out", workers=workers, shard_rows=5)

    cluster = RayHead(tmp_path / "ray.out", num_cpus=0)
    try:
        cluster.start()
        driver = start("render", job, "--address", cluster.address)
        first = cluster.add_node(num_cpus=1)
        wait_until(lambda: num_committed(tmp_path) >= 2, driver)
        cluster.cut_power(first)
        num_before = num_committed(tmp_path)
        cluster.add_node(num_cpus=1)
        answer = finish(driver)
    finally:
        cluster.stop()

    assert answer.returncode == 0, answer.stderr
    assert num_before < NUM_SHARDS
    assert " retries" in answer.stderr
    assert run("verify", tmp_path / "out").returncode == 0


def num_committed(folder: Path) -> int:
    return len(list((folder / "out" / "manifest").glob("*.parquet")))


def hashes_of(prompts: str, output: Path) -> dict[str, str]:
    rows = manifest_of(make_job(prompts, output))
    assert len({row["image_id"] for row in rows}) == len(rows), "an image is in the manifest twice"
    return {row["image_id"]: row["image_sha256"] for row in rows}


LIST_NODES = """
import ray, sys
ray.init(sys.argv[1])
print(*(node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_with_a_spot_notice_finishes_its_shards_and_gets_no_new_ones(tmp_path: Path) -> None:
    prompts = [f"prompt {n} toy:sleep=0.1" for n in range(5 * NUM_SHARDS)]
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    workers = {"max": 1, "batch_size": 2, "max_tries": 1}
    job = write_job(tmp_path / "job.yaml", path, tmp_path / "out", workers=workers, shard_rows=5)
    cluster = RayHead(tmp_path / "ray.out", num_cpus=0)
    try:
        cluster.start()
        driver = start("render", job, "--address", cluster.address)
        cluster.add_node(num_cpus=1)
        wait_until(lambda: num_committed(tmp_path) >= 2, driver)
        listing = [sys.executable, "-c", LIST_NODES, cluster.address]
        node_id = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()[-1]
        notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        where = ["--address", cluster.address, "--node-id", node_id, "--deadline-remaining-seconds", "120"]
        subprocess.run([PROGRAMS / "ray", "drain-node", *where, *notice], check=True, capture_output=True)
        cluster.add_node(num_cpus=1)
        answer = finish(driver)
    finally:
        cluster.stop()

    assert answer.returncode == 0, answer.stderr
    assert " retries" not in answer.stderr
    toy_job.render(make_job(path, tmp_path / "calm"))
    assert hashes_of(path, tmp_path / "out") == hashes_of(path, tmp_path / "calm")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_host_that_is_cut_off_and_rejoins_leaves_every_image_once(tmp_path: Path) -> None:
    if (reason := hosts.why_not()) is not None:
        pytest.skip(f"hosts need root and iproute2: {reason}")
    prompts = [f"prompt {n} toy:sleep=0.1" for n in range(5 * 3 * NUM_SHARDS)]
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": prompts})
    workers = {"max": 2, "batch_size": 2, "max_tries": 1}
    job = write_job(tmp_path / "job.yaml", path, tmp_path / "out", workers=workers, shard_rows=5)
    machines, log = Hosts(tmp_path, 3), tmp_path / "ray.out"
    head = f"{machines.address(1)}:6379"
    try:
        machines.up()
        options = ("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=False", f"--temp-dir={RAY_FOLDER}")
        first = machines.boot(1, ray_node(machines, 1, *options), log)
        wait_for(lambda: answers(machines, head), first, log, timeout_s=240)
        for host in (2, 3):
            machines.boot(host, ray_node(machines, host, f"--address={head}", "--num-cpus=1"), log)
        driver = start("render", job, "--address", head, program=machines.on(1, *JANUS_BATCH))
        wait_until(lambda: num_committed(tmp_path) >= 6, driver)
        machines.cut(2)
        num_before = num_committed(tmp_path)
        wait_until(lambda: num_committed(tmp_path) >= num_before + 12, driver)
        machines.reconnect(2)  # Ray has declared it dead: it joins again with a new Ray
        machines.boot(2, ray_node(machines, 2, f"--address={head}", "--num-cpus=1"), log)
        answer = finish(driver)
    finally:
        machines.down()

    assert answer.returncode == 0, answer.stderr
    assert " retries" in answer.stderr
    toy_job.render(make_job(path, tmp_path / "calm"))
    assert hashes_of(path, tmp_path / "out") == hashes_of(path, tmp_path / "calm")
    assert run("verify", tmp_path / "out").returncode == 0


def answers(machines: Hosts, address: str) -> bool:
    """Whether the head's port accepts connections on its own host."""
    host, _, port = address.rpartition(":")
    connect = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
    return subprocess.run(machines.on(1, sys.executable, "-c", connect), capture_output=True).returncode == 0
