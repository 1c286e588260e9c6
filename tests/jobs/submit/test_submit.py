"""`janus-batch submit` and `ray job submit` through a real job server: what is sent and reported."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from actors.errors import JobFailure
from janus_batch import OLDEST_PYTHON
from jobs.submit.job_server import JobServer, JobServerAwayError, SubmissionError
from jobs.submit.submit import Submission, submit
from tests.support.command import ROOT, finish, press_ctrl_c, run, start, wait_until, write_job
from tests.support.servers.ray_head import PROGRAMS, RayHead
from tests.support.toy_job import make_job, manifest_of, write_prompts

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

SECRET = "a secret of the tests only"
SECRET_TOKEN = "5" * 64
SMALL = {"workers": {"max": 1, "max_tries": 1}, "shard_rows": 4}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A node with a job server, and with an environment that gives jobs nothing."""
    node = RayHead(tmp_path_factory.mktemp("ray") / "head.out", num_cpus=4)
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def client(head: RayHead) -> JobSubmissionClient:
    return JobSubmissionClient(head.url)


def toy_job_file(folder: Path, prompts: list[str], **sections: object) -> Path:
    path = write_prompts(folder / "prompts.parquet", {"prompt": prompts})
    return write_job(folder / "job.yaml", path, folder / "out", **{**SMALL, **sections})


def num_committed(folder: Path) -> int:
    return len(list((folder / "out" / "manifest").glob("*.parquet")))


# ---- exit codes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(
    head: RayHead, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, subprocess.CompletedProcess[str]]]:
    """Three jobs submitted by `janus-batch` at the same time, and one by `ray job submit`: folders and answers."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("good", "failing", "wrong", "rays_own")}
    good, data = folders["good"], folders["good"] / "data"
    write_prompts(data / "prompts" / "prompts.parquet", {"prompt": [f"prompt {n}" for n in range(8)]})
    good_job = write_job(good / "good-job.yaml", "prompts/*.parquet", good / "out", **SMALL)
    failing_job = toy_job_file(folders["failing"], ["toy:exit 0", "toy:exit 1"])
    wrong_job = write_job(folders["wrong"] / "job.yaml", folders["wrong"] / "nothing-here", folders["wrong"] / "out")
    own_job = toy_job_file(folders["rays_own"], [f"prompt {n}" for n in range(8)])
    ray_submit = (str(PROGRAMS / "ray"), "job", "submit", "--address", head.url, "--working-dir", ".", "--")
    ours = ("--address", head.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAMED_BY_THE_TESTS", "sent")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        more = ("--working-dir", data, "--env", "NAMED_BY_THE_TESTS", "--set", "sampling.images_per_prompt=2")
        processes = {
            "good": start("submit", good_job, *ours, *more, "--entrypoint-num-cpus", "1", "--metadata", "team=search"),
            "failing": start("submit", failing_job, *ours),
            "wrong": start("submit", wrong_job, *ours),
            "rays_own": start("python", "-m", "jobs", "render", own_job, program=ray_submit),
        }
    return {name: (folders[name], finish(process)) for name, process in processes.items()}


def test_a_job_file_from_elsewhere_renders_the_prompts_in_the_uploaded_folder(answers, client) -> None:
    folder, answer = answers["good"]

    assert answer.returncode == 0, answer.stderr
    assert "done: 16 images, 0 rejected" in answer.stderr
    assert len(manifest_of(make_job("", folder / "out"))) == 16
    assert (folder / "out" / "_SUCCESS").exists()
    submission_id = answer.stdout.strip()
    assert submission_id.startswith("good-job-")
    details = client.get_job_info(submission_id)
    assert details.metadata == {
        "job_name": "good-job",
        "prompts": "prompts/*.parquet",
        "output": str(folder / "out"),
        "team": "search",
    }


def test_only_variables_that_are_named_are_sent(answers, client) -> None:
    _, answer = answers["good"]

    details = client.get_job_info(answer.stdout.strip())

    assert details.runtime_env["env_vars"] == {"NAMED_BY_THE_TESTS": "sent"}
    assert SECRET not in details.model_dump_json()


def test_a_failed_job_returns_1_and_its_reason(answers) -> None:
    _, answer = answers["failing"]

    assert answer.returncode == 1
    assert "its worker process has died." in answer.stderr


def test_a_wrong_job_returns_2_and_its_reason(answers) -> None:
    folder, answer = answers["wrong"]

    assert answer.returncode == 2
    assert f"janus-batch: prompts: no prompt files match {folder}/nothing-here" in answer.stderr


def test_rays_own_command_runs_the_same_program(answers) -> None:
    folder, answer = answers["rays_own"]

    assert answer.returncode == 0, answer.stdout
    assert len(manifest_of(make_job("", folder / "out"))) == 8


# ---- jobs that keep running or are stopped ---------------------------------------------------------------------------


def test_ctrl_c_leaves_the_job_running_and_says_how_to_stop_it(
    head: RayHead, client: JobSubmissionClient, tmp_path: Path
) -> None:
    job_file = toy_job_file(tmp_path, ["prompt toy:sleep=0.2"] * 400)
    terminal = start("submit", job_file, "--address", head.url)
    wait_until(lambda: num_committed(tmp_path) >= 1, terminal)
    press_ctrl_c(terminal)
    answer = finish(terminal)

    submission_id = answer.stdout.strip()
    assert answer.returncode == 1
    assert answer.stderr.endswith(f"to stop it: janus-batch submit --stop {submission_id} --address {head.url}\n")
    assert "Traceback" not in answer.stderr
    assert client.get_job_status(submission_id) == JobStatus.RUNNING

    answer = run("submit", "--stop", submission_id, "--address", head.url)
    assert (answer.returncode, answer.stderr) == (0, f"{submission_id} is stopped (STOPPED)\n")
    assert client.get_job_status(submission_id) == JobStatus.STOPPED
    assert "trouble: received SIGTERM: the shards in flight have up to" in client.get_job_logs(submission_id)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_job_whose_node_died_fails_instead_of_waiting_forever(tmp_path: Path) -> None:
    """The job server still reports it as RUNNING. A driver that joined the node says that it was ended."""
    folders = [tmp_path / "submitted", tmp_path / "joined"]
    job_files = [toy_job_file(folder, ["prompt toy:sleep=0.2"] * 400) for folder in folders]
    node = RayHead(tmp_path / "head.out", num_cpus=4)
    try:
        node.start()
        joined = start("render", job_files[0], "--address", node.address)
        wait_until(lambda: num_committed(folders[0]) >= 1, joined)
        answer = run("submit", job_files[1], "--address", node.url, "--no-wait")
        submission_id, client = answer.stdout.strip(), JobSubmissionClient(node.url)
        wait_until(lambda: client.get_job_status(submission_id) == JobStatus.RUNNING)
        node.kill_agent()
        ended = finish(joined)
        assert ended.returncode == 1
        assert "this process ended without a result. Ray ends it if Ray is lost on this machine" in ended.stderr
        assert ended.stderr.endswith("run the same command again to resume; committed images are kept\n")
        with pytest.raises(JobFailure, match="has the status RUNNING, but its node no longer answers"):
            JobServer(node.url, silent_seconds=3.0).follow(submission_id)
    finally:
        node.stop()


def test_a_job_submitted_with_no_wait_can_be_stopped_before_it_starts(
    head: RayHead, client: JobSubmissionClient, tmp_path: Path
) -> None:
    job_file = toy_job_file(tmp_path, ["prompt toy:sleep=0.2"] * 400)

    answer = run("submit", job_file, "--address", head.url, "--no-wait")
    assert answer.returncode == 0
    assert run("submit", "--stop", answer.stdout.strip(), "--address", head.url).returncode == 0

    assert client.get_job_status(answer.stdout.strip()) == JobStatus.STOPPED
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_the_same_submission_id_is_followed_and_not_submitted_again(
    head: RayHead, client: JobSubmissionClient, tmp_path: Path
) -> None:
    job_file = toy_job_file(tmp_path, ["prompt 0"])
    named = ("submit", job_file, "--address", head.url, "--submission-id", "of-one-night")

    assert run(*named, "--no-wait").stdout == "of-one-night\n"
    answer = run(*named)

    assert answer.returncode == 0
    assert "of-one-night was submitted before: following it" in answer.stderr
    assert "done: 1 image, 0 rejected" in answer.stderr
    assert [job.submission_id for job in client.list_jobs()].count("of-one-night") == 1


def test_a_submitted_job_is_resumed_after_a_change_in_the_uploaded_folder(head: RayHead, tmp_path: Path) -> None:
    """Each upload is unpacked into another folder, and its files get another time."""
    folder = tmp_path / "work"
    write_prompts(folder / "prompts" / "p.parquet", {"prompt": ["prompt 0", "prompt 1"]})
    job_file = write_job(tmp_path / "job.yaml", "prompts", tmp_path / "out", **SMALL)
    command = ("submit", job_file, "--working-dir", folder, "--address", head.url)
    first = run(*command)
    (folder / "NOTES.txt").write_text("nothing that an image depends on\n")

    second = run(*command)

    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert "resuming: 2 prompts done" in second.stderr

    write_prompts(folder / "prompts" / "p.parquet", {"prompt": ["prompt 0", "prompt 2"]})
    changed = run(*command)
    assert changed.returncode == 2
    assert "p.parquet" in changed.stderr


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return toy_job_file(tmp_path, ["prompt 0"])


def test_an_address_without_a_job_server_is_refused(job_file: Path) -> None:
    with pytest.raises(JobServerAwayError, match=r"--address: no Ray job server answers at http://127.0.0.1:1"):
        submit(str(job_file), [], Submission(), address="http://127.0.0.1:1")
    with pytest.raises(SubmissionError, match=r"--address must be the http\(s\) address .*, got 127.0.0.1:8265"):
        submit(str(job_file), [], Submission(), address="127.0.0.1:8265")


def test_another_server_is_refused(job_file: Path, tmp_path: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with (
        serving(handler) as url,
        pytest.raises(SubmissionError, match=r"refused the request: Version check returned 404"),
    ):
        submit(str(job_file), [], Submission(), address=url)


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server in place of a job server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class ServerInTrouble(http.server.BaseHTTPRequestHandler):
    """A job server whose node cannot accept jobs yet, with the answer of Ray's own."""

    def do_GET(self) -> None:
        self._answer(200, b'{"version": "4", "ray_version": "2.60.0", "ray_commit": ""}')

    def do_POST(self) -> None:
        self._answer(500, b"No available agent to submit job, please try again later.")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_an_internal_error_of_the_job_server_can_be_retried(job_file: Path) -> None:
    with (
        serving(ServerInTrouble) as url,
        pytest.raises(JobServerAwayError, match=r"cannot take the request now: .*No available agent"),
    ):
        submit(str(job_file), [], Submission(), address=url)


class OldRay(ServerInTrouble):
    def do_GET(self) -> None:
        self._answer(200, b'{"version": "4", "ray_version": "2.9.3", "ray_commit": ""}')


def test_a_cluster_with_a_ray_that_is_too_old_is_refused(job_file: Path) -> None:
    with (
        serving(OldRay) as url,
        pytest.raises(SubmissionError, match=r"has Ray 2\.9\.3, and janus-batch needs 2\.50 or later"),
    ):
        submit(str(job_file), [], Submission(), address=url)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "ray[default]>=2.50" in pyproject["project"]["dependencies"]
    assert pyproject["project"]["requires-python"] == ">=3.11" == f">={'.'.join(map(str, OLDEST_PYTHON))}"


def test_an_output_inside_the_uploaded_folder_is_refused(job_file: Path) -> None:
    with pytest.raises(SubmissionError, match="output: renders/x is inside the uploaded folder, which Ray deletes"):
        submit(str(job_file), ["output=renders/x"], Submission(), address="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        (Submission(variables=["NOT_SET_HERE"]), "--env: NOT_SET_HERE is not set here"),
        (Submission(runtime_env_json="{"), "--runtime-env-json is not JSON: "),
        (Submission(runtime_env_json="[]"), r"--runtime-env-json must be a JSON object, got list"),
        (Submission(runtime_env_json='{"working_dir": "."}'), "name the working_dir with --working-dir"),
        (Submission(runtime_env_json='{"env_vars": [1]}'), "env_vars must be a JSON object, got list"),
        (Submission(runtime_env_json='{"excludes": "*.png"}'), "excludes must be a list of patterns"),
        (Submission(runtime_env_json='{"worker_process_setup_hook": "a.b"}'), "sets worker_process_setup_hook itself"),
        (Submission(entrypoint_resources="[1]"), r"--entrypoint-resources must be a JSON object, got list"),
        (Submission(metadata=["team"]), r"--metadata takes key=value \(--metadata team=search\), got 'team'"),
        (Submission(metadata=["output=x"]), "--metadata: output is written by janus-batch itself; take another key"),
    ],
)
def test_an_invalid_environment_is_refused(job_file: Path, submission: Submission, message: str) -> None:
    with pytest.raises(SubmissionError, match=message):
        submit(str(job_file), [], submission, address="http://127.0.0.1:1")


def test_a_folder_over_the_size_limit_is_refused(
    job_file: Path, head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "weights.bin").open("wb") as file:
        for _ in range(101):
            file.write(os.urandom(2**20))

    words = r"large has 1.. MiB in .* files to upload, and a job server takes 100 MiB; the largest is weights.bin"
    with pytest.raises(SubmissionError, match=words):
        submit(str(job_file), [], Submission(working_dir=str(tmp_path / "large")), address=head.url)
    monkeypatch.setattr("jobs.submit.upload.most_bytes", lambda: 2**30)  # the limit of a job server that takes less
    with pytest.raises(SubmissionError, match="--working-dir: the folder is larger than the job server takes; leave"):
        submit(str(job_file), [], Submission(working_dir=str(tmp_path / "large")), address=head.url)


def test_a_head_with_a_token_refuses_jobs_without_it(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET_TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    node = RayHead(tmp_path / "head.out", num_cpus=2, token=SECRET_TOKEN)
    try:
        node.start()
        answer = run("submit", job_file, "--address", node.url)
        assert answer.returncode == 0, answer.stderr
        assert SECRET_TOKEN not in answer.stderr + answer.stdout

        token.write_text("0" * 64)
        wrong = run("submit", job_file, "--address", node.url)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        none = run("submit", job_file, "--address", node.url)
    finally:
        node.stop()
    for refused in (wrong, none):
        assert refused.returncode == 2, refused.stderr
        assert f"janus-batch: the job server at {node.url} refused the request" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_an_unknown_job_cannot_be_stopped(head: RayHead) -> None:
    answer = run("submit", "--stop", "no-such-job", "--address", head.url)

    assert answer.returncode == 2
    assert "Job no-such-job does not exist" in answer.stderr
