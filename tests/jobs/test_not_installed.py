"""The program on a cluster where it is not installed: it runs from the uploaded working directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_batch import VERSION
from tests.support.command import ROOT, finish, start, write_job
from tests.support.named_alike import as_modules, as_packages
from tests.support.not_installed import make_environment
from tests.support.servers.ray_head import RayHead
from tests.support.toy_job import make_job, manifest_of, write_prompts

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("not-installed"))


@pytest.fixture(scope="module")
def head(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    node = RayHead(tmp_path_factory.mktemp("ray") / "head.out", num_cpus=4, programs=programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def test_rays_own_submit_renders_a_job_to_its_report(programs: Path, head: RayHead, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"prompt {n}" for n in range(8)]})
    job = write_job(tmp_path / "job.yaml", tmp_path / "prompts.parquet", tmp_path / "out", workers={"max": 1})
    ray_submit = (str(programs / "ray"), "job", "submit", "--address", head.url, "--working-dir", ".", "--")

    answer = finish(start("python", "-m", "jobs", "render", job, program=ray_submit))

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert len(manifest_of(make_job("", tmp_path / "out"))) == 8
    assert {"_SUCCESS", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert VERSION in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f'"janus_batch": "{VERSION}"' in (tmp_path / "out" / "job.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", [("-m", "jobs"), ("-P", f"{ROOT}/janus_batch.py")])
def test_the_version_is_known(programs: Path, program: tuple[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [programs / "python", *program, "--version"]

    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert (answer.returncode, answer.stdout) == (0, f"janus-batch, version {VERSION}\n"), answer.stderr


def test_our_own_submit_renders_next_to_files_named_like_our_packages(head: RayHead, tmp_path: Path) -> None:
    """The user's folder is the working directory of the driver and of every worker, and first on their search path."""
    folder = tmp_path / "research"
    write_prompts(folder / "prompts" / "prompts.parquet", {"prompt": ["a red square", "a blue circle"]})
    as_modules(folder, ("workflows", "jobs"))
    as_packages(folder, ("actors",))
    job = write_job(tmp_path / "job.yaml", "prompts/*.parquet", tmp_path / "out", workers={"max": 1})

    answer = finish(start("submit", job, "--working-dir", folder, "--address", head.url))

    assert answer.returncode == 0, answer.stderr
    assert len(manifest_of(make_job("", tmp_path / "out"))) == 2
