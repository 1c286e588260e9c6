"""deploy/compose/: no container is started here, but its files agree, and its commands render into a bucket."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from jobs.cli.main import cli
from jobs.job_file.read import check_fields
from tests.support.command import ROOT
from tests.support.command_line import Command
from tests.support.servers.s3 import S3Server

FOLDER = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
JOB = yaml.safe_load((FOLDER / "job.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
ENDPOINT = "http://s3:9000"


def test_every_service_waits_for_one_that_is_there_and_can_be_waited_for() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            is_checked = "healthcheck" in SERVICES[name]
            assert how["condition"] == ("service_healthy" if is_checked else "service_completed_successfully")


def test_only_the_s3_server_is_reachable_and_from_this_machine_only() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert ports == {"s3": ["127.0.0.1:9000:9000", "127.0.0.1:9001:9001"]}


def test_the_image_is_the_one_of_the_containerfile_with_the_ray_of_the_constraints() -> None:
    (ray,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    containerfile = (ROOT / "deploy" / "Containerfile").read_text()
    programs = [service for service in SERVICES.values() if "build" in service]

    assert len(programs) == 3
    for program in programs:
        assert (FOLDER / program["build"]["context"]).resolve() == ROOT
        assert (ROOT / program["build"]["dockerfile"]).is_file()
        (argument, image) = next(iter(program["build"]["args"].items()))
        assert image == f"${{{argument}:-rayproject/ray:{ray}-py311-cpu}}"
        assert f"ARG {argument}=rayproject/ray:{ray}-py311-gpu\nFROM ${argument}\n" in containerfile
    assert ":" in SERVICES["s3"]["image"]


def test_the_server_has_the_keys_of_the_programs_and_the_job_finds_both() -> None:
    server, program = SERVICES["s3"]["environment"], SERVICES["head"]["environment"]

    assert server["MINIO_ROOT_USER"] == program["AWS_ACCESS_KEY_ID"]
    assert server["MINIO_ROOT_PASSWORD"] == program["AWS_SECRET_ACCESS_KEY"]
    assert SERVICES["job"]["environment"] == program
    assert check_fields(JOB).storage["endpoint_url"] == ENDPOINT
    assert (ROOT / JOB["prompts"]).is_file()
    (mounted,) = SERVICES["job"]["volumes"]
    assert (FOLDER / mounted.split(":")[0]).is_file()
    assert mounted.split(":")[1] in SERVICES["job"]["command"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


def test_its_commands_render_into_a_new_bucket(
    s3_server: S3Server, ray_cluster: None, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket's and the job's commands, with this machine's addresses, on a Ray of this process, and with toys."""
    python, *rest = [word.replace(ENDPOINT, s3_server.endpoint_url) for word in SERVICES["bucket"]["command"]]
    assert python == "python"
    for _ in range(2):  # `up` once more
        subprocess.run([sys.executable, *rest], check=True)
    program, verb, job_file, *options = SERVICES["job"]["command"]
    assert (program, verb, job_file) == ("janus-batch", "submit", "/trial/job.yaml")
    cli.get_command(click.Context(cli), verb).make_context(verb, [job_file, *options])
    changes = {"storage.endpoint_url": s3_server.endpoint_url, "model.checkpoint": "toy", "workers.max": "1"}
    settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    monkeypatch.chdir(ROOT)

    code, _, err = command("render", str(FOLDER / "job.yaml"), *settings)

    assert code == 0, err
    assert command("status", JOB["output"], "--endpoint-url", s3_server.endpoint_url)[0] == 0
