"""`janus-batch submit`: a job through the job server of a Ray cluster, its log and its exit code back.

The folder that is uploaded is staged by symbolic links, which Ray follows: the working directory, the three packages
where it has none, and the job file, which may lie anywhere. Relative paths in the job file mean that folder on the
cluster. Secrets are not sent along unless they are named.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actors.errors import InputError, JobFailure
from jobs.job_file.spec import JobSpec, dated, read_job_file, scheduled_time
from jobs.terminal.view import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.job_submission import JobDetails, JobSubmissionClient

    from workflows.storage.lease import WhenHeld

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "workflows", "jobs")
JOB_FOLDER = "submitted-job"  # of the job file in the uploaded folder

# At the top of a working directory: what a job on a cluster has no use for. Ray leaves out what .gitignore names, too.
LEFT_OUT = {".git", ".github", ".ci", ".venv", "benchmarks", "build", "deploy", "dist", "docs", "renders", "tests"}

POLL_SECONDS = 1.0
SILENT_SECONDS = 60.0  # between two looks whether a job without a log is still there
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class SubmissionError(InputError):
    """The job cannot be handed in: nothing to upload or too much, a variable not set, a token that is wrong."""


class JobServerAwayError(JobFailure):
    """No job server answers at the address, or it is in trouble; the job may still run, or be handed in later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What is sent beside the job file: the folder, the environment, and what the driver's process reserves."""

    working_dir: str | None = None
    variables: Sequence[str] = ()
    runtime_env_json: str = "{}"
    metadata: Sequence[str] = ()
    submission_id: str | None = None
    entrypoint_num_cpus: float = 0
    entrypoint_num_gpus: float = 0
    entrypoint_memory: int = 0
    entrypoint_resources: str = "{}"
    scheduled_at: str | None = None
    when_held: WhenHeld | None = None


def submit(
    job_file: str, settings: Sequence[str], submission: Submission, *, address: str, is_waited_for: bool = True
) -> int:
    """Hand in the job, show its log until it ends, return its exit code; 0 at once if it is not waited for.

    A job that was handed in before under the same submission id is followed, not handed in again.
    """
    wish = read_job_file(job_file, list(settings))
    spec = dated(wish, submission.scheduled_at)
    _check_output(spec)
    runtime_env, metadata = _runtime_env(submission), _metadata(submission, spec)
    resources = _json_object("--entrypoint-resources", submission.entrypoint_resources)
    client = _connect(address)
    if submission.submission_id and _is_known(client, submission.submission_id, address):
        say(f"{submission.submission_id} was handed in before: following it")
        click.echo(submission.submission_id)
        return _follow(client, submission.submission_id, address) if is_waited_for else 0
    submission_id = submission.submission_id or f"{_plain(spec.name or 'job')}-{uuid.uuid4().hex[:8]}"
    command = _entrypoint(Path(job_file), settings, submission, wish)
    working_dir = Path(submission.working_dir or _project_folder())
    with tempfile.TemporaryDirectory(prefix="janus-batch-") as staged, _submission_errors(address):
        _stage(Path(staged), working_dir, Path(job_file))
        say(f"uploading {working_dir} to {address}")
        client.submit_job(
            entrypoint=command,
            submission_id=submission_id,
            runtime_env={**runtime_env, "working_dir": staged},
            metadata=metadata,
            entrypoint_num_cpus=submission.entrypoint_num_cpus or None,
            entrypoint_num_gpus=submission.entrypoint_num_gpus or None,
            entrypoint_memory=submission.entrypoint_memory or None,
            entrypoint_resources=resources or None,
        )
    click.echo(submission_id)
    return _follow(client, submission_id, address) if is_waited_for else 0


def stop(submission_id: str, *, address: str) -> int:
    """Stop a job that was handed in and wait until it has ended; 0 whether or not it still ran."""
    client = _connect(address)
    with _submission_errors(address):
        was_running = client.stop_job(submission_id)
        details = _wait_for_end(client, submission_id)
    say(f"{submission_id} {'is stopped' if was_running else 'had ended before'} ({details.status})")
    return 0


def _check_output(spec: JobSpec) -> None:
    """Refuse an output that Ray deletes with the job's folder; a local one may be meant, on a file system all share."""
    if "://" not in spec.output and not Path(spec.output).is_absolute():
        raise SubmissionError(
            f"output: {spec.output} would lie in the job's own folder on the cluster, which Ray deletes; allowed are "
            "URLs (s3://bucket/folder) and absolute paths of a file system that all nodes share"
        )
    for key, place in (("prompts", spec.prompts), ("output", spec.output)):
        if Path(place).is_absolute():
            say(f"note: {key}: {place} must be the same folder on every node of the cluster")


def _runtime_env(submission: Submission) -> dict[str, Any]:
    """The user's runtime environment with the named variables laid over its own."""
    runtime_env = _json_object("--runtime-env-json", submission.runtime_env_json)
    if "working_dir" in runtime_env:
        raise SubmissionError("--runtime-env-json: working_dir is given by --working-dir")
    missing = [name for name in submission.variables if name not in os.environ]
    if missing:
        raise SubmissionError(f"--env: {', '.join(missing)} is not set here, so there is no value to send")
    named = {name: os.environ[name] for name in submission.variables}
    return {**runtime_env, "env_vars": {**runtime_env.get("env_vars", {}), **named}}


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SubmissionError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SubmissionError(f"{option} must be a JSON object, got {text}")
    return value


def _metadata(submission: Submission, spec: JobSpec) -> dict[str, str]:
    """What the dashboard shows beside the job: what it is, and what the user adds."""
    metadata = {"job_name": spec.name or "", "prompts": spec.prompts, "output": spec.output}
    for pair in submission.metadata:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise SubmissionError(f"--metadata takes key=value (--metadata team=search), got {pair!r}")
        if key in metadata:
            raise SubmissionError(f"--metadata: {key} is written by janus-batch itself; take another key")
        metadata[key] = value
    return metadata


def _is_known(client: JobSubmissionClient, submission_id: str, address: str) -> bool:
    try:
        with _submission_errors(address):
            client.get_job_status(submission_id)
    except SubmissionError as error:
        if "does not exist" in str(error):
            return False
        raise
    return True


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", name)


def _project_folder() -> Path:
    """The checkout that this program runs from. An installed copy lies among other packages: nothing to upload."""
    if not (PROJECT / "pyproject.toml").is_file():
        raise SubmissionError(f"{PROJECT} is no project folder; name the folder to upload with --working-dir")
    return PROJECT


def _stage(staged: Path, working_dir: Path, job_file: Path) -> None:
    """Fill the folder that is uploaded."""
    if not working_dir.is_dir():
        raise SubmissionError(f"--working-dir: {working_dir} is no folder")
    for entry in working_dir.resolve().iterdir():
        if entry.name not in LEFT_OUT:
            (staged / entry.name).symlink_to(entry)
    for package in PACKAGES:
        if not (staged / package).exists():
            (staged / package).symlink_to(PROJECT / package)
        elif not (staged / package / "__init__.py").is_file():
            raise SubmissionError(f"{working_dir / package} would stand before janus-batch's own package; rename it")
    (staged / JOB_FOLDER).mkdir()
    (staged / JOB_FOLDER / job_file.name).write_bytes(job_file.read_bytes())


def _entrypoint(job_file: Path, settings: Sequence[str], submission: Submission, wish: JobSpec) -> str:
    """The command of the driver. The scheduled time is settled here: on the cluster, a job may begin much later."""
    command = ["python", "-m", "jobs", "render", f"{JOB_FOLDER}/{job_file.name}"]
    command += [part for setting in settings for part in ("--set", setting)]
    if wish.has_dates:
        command += ["--scheduled-at", scheduled_time(wish, submission.scheduled_at).isoformat()]
    command += {"wait": ["--wait-for-output"], "ignore": ["--ignore-lease"]}.get(submission.when_held or "", [])
    return shlex.join(command)


def _connect(address: str) -> JobSubmissionClient:
    if not address.startswith(("http://", "https://")):
        raise SubmissionError(
            f"--address must be the http(s) address of Ray's job server, such as http://HEAD:8265, got {address}"
        )
    for variable in ADDRESS_VARIABLES:
        os.environ.pop(variable, None)  # Ray's client would prefer them to the address it is given
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # that a package is uploaded is said here
    with _submission_errors(address):
        return JobSubmissionClient(address)


@contextmanager
def _submission_errors(address: str) -> Iterator[None]:
    """One clear line for what goes wrong between this machine and the job server."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except InputError:
        raise
    except (ConnectionError, requests.RequestException) as error:
        raise JobServerAwayError(f"--address: no Ray job server answers at {address}: {error}") from error
    except (AuthenticationError, RuntimeError, ValueError, TypeError) as error:
        if "status code 413" in str(error):
            raise SubmissionError(
                "--working-dir: the folder is larger than the job server takes, 100 MiB zipped; name a smaller one, or "
                "leave files out by a .gitignore, a .rayignore or --runtime-env-json '{\"excludes\": [...]}'"
            ) from error
        if "status code 5" in str(error):  # its own trouble: an agent on its node that is not there yet, say
            raise JobServerAwayError(f"the job server at {address} cannot take the request now: {error}") from error
        raise SubmissionError(f"the job server at {address} did not take the request: {error}") from error


def _follow(client: JobSubmissionClient, submission_id: str, address: str) -> int:
    """Show the job's log until it ends; its exit code. A Ctrl-C leaves the job alone."""
    stop_command = f"janus-batch submit --stop {submission_id} --address {address}"
    try:
        asyncio.run(_show_log(client, submission_id))
        return _exit_code(_wait_for_end(client, submission_id))
    except KeyboardInterrupt:
        say(f"\nthe job goes on without this terminal; to stop it: {stop_command}")
        return 1
    except OSError as error:  # of `requests`, too
        raise JobFailure(f"{submission_id} is out of sight: {error}; to stop it: {stop_command}") from error


async def _show_log(client: JobSubmissionClient, submission_id: str) -> None:
    import aiohttp

    try:
        async for lines in client.tail_job_logs(submission_id):
            sys.stderr.write(lines)
            sys.stderr.flush()
    except (RuntimeError, aiohttp.ClientError) as error:
        say(f"the log broke off ({error}); waiting for the job to end")


def _wait_for_end(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Wait until the job server says that the job has ended. Raises JobFailure if nobody is there to tell it so."""
    look_at = time.monotonic() + SILENT_SECONDS
    while not (details := client.get_job_info(submission_id)).status.is_terminal():
        time.sleep(POLL_SECONDS)
        if time.monotonic() > look_at:
            _check_node(client, submission_id, details)
            look_at = time.monotonic() + SILENT_SECONDS
    return details


def _check_node(client: JobSubmissionClient, submission_id: str, details: JobDetails) -> None:
    """Raise JobFailure if the job's node does not answer: who watched the job there is gone with it."""
    try:
        client.get_job_logs(submission_id)
    except RuntimeError as error:
        raise JobFailure(f"{submission_id} is called {details.status}, but its node answers no more") from error


def _exit_code(details: JobDetails) -> int:
    """The driver's own exit code; 1 for whatever kept it from having one of ours."""
    if details.driver_exit_code in (0, 1, 2):
        return details.driver_exit_code
    say(f"the job ended as {details.status}: {details.message}")
    return 1
