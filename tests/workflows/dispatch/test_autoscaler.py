"""Ray's autoscaler, with processes of this machine as nodes, starts the nodes that a job's actors need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import run, write_job
from tests.support.servers.ray_head import RayHead
from tests.support.toy_job import write_prompts

# The kinds of the living nodes, without the head's.
LIST_KINDS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40)
kinds = [name.removeprefix("accelerator_type:") for node in ray.nodes() for name in node["Resources"] if ":L" in name]
print(*sorted(kinds))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_autoscaler_adds_nodes_with_the_accelerator_that_the_job_names(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {n} toy:sleep=0.1" for n in range(48)]})
    workers = {"max": 2, "gpus_per_actor": 1, "accelerator_type": "L40S", "batch_size": 2}
    job = write_job(tmp_path / "job.yaml", path, tmp_path / "out", workers=workers, shard_rows=4)
    kinds = {name: {"CPU": 2, "GPU": 1, f"accelerator_type:{name}": 1} for name in ("L4", "L40S")}

    cluster = RayHead(tmp_path / "ray.out", num_cpus=0, node_types=kinds)
    try:
        cluster.start()
        answer = run("render", job, "--address", cluster.address)
        listed = subprocess.run(
            [sys.executable, "-c", LIST_KINDS, cluster.address], capture_output=True, text=True, timeout=60
        )
    finally:
        cluster.stop()

    assert answer.returncode == 0, answer.stderr
    assert "done: 48 images, 0 rejected" in answer.stderr
    kinds_added = listed.stdout.split()
    assert len(kinds_added) >= 2, listed.stderr  # Ray counts an actor again while its node starts
    assert set(kinds_added) == {"L40S"}
