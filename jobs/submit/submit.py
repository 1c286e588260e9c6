"""`janus-batch submit`: a job through the job server of a Ray cluster, with its log and its exit code.

Relative paths in the job file mean the uploaded folder on the cluster. No environment variable is sent unless the user
names it.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.acceptance import acceptance_options
from jobs.job_file.dates import dated, scheduled_time
from jobs.job_file.plain_id import plain_id
from jobs.job_file.read import read_job_file
from jobs.job_file.spec import JobSpec
from jobs.submit.job_server import JobServer, SubmissionError
from jobs.submit.upload import check_upload, default_working_dir, entrypoint, stage
from jobs.terminal.text import say

if TYPE_CHECKING:
    from workflows.output.acceptance import RejectionLimit
    from workflows.storage.lease import WhenHeld


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What is sent with the job file: the folder, the environment, and the resources of the driver process."""

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
    max_rejected: RejectionLimit | None = None
    allow_empty: bool = False


def submit(
    job_file: str, settings: Sequence[str], submission: Submission, *, address: str, is_waited_for: bool = True
) -> int:
    """Submit the job, show its log until it ends, and return its exit code; 0 at once if it is not waited for.

    A job that was submitted before under the same submission id is followed, not submitted again.
    """
    as_written = read_job_file(job_file, list(settings))
    spec = dated(as_written, submission.scheduled_at)
    _check_output(spec)
    options = _options(submission, spec)
    server = JobServer(address)
    submission_id = submission.submission_id or f"{plain_id(spec.name or 'job')}-{uuid.uuid4().hex[:8]}"
    if submission.submission_id and server.knows(submission_id):
        say(f"{submission_id} was submitted before: following it")
    else:
        command = render_options(settings, submission, as_written)
        _upload(server, submission_id, Path(job_file), spec, command, submission.working_dir, options)
    click.echo(submission_id)
    return server.follow(submission_id) if is_waited_for else 0


def stop(submission_id: str, *, address: str) -> int:
    """Stop a submitted job and wait until it has ended; 0 whether or not it was still running."""
    say(JobServer(address).stop(submission_id))
    return 0


def _upload(
    server: JobServer,
    submission_id: str,
    job_file: Path,
    spec: JobSpec,
    render_options: Sequence[str],
    working_dir: str | None,
    options: dict[str, Any],
) -> None:
    folder, runtime_env = Path(working_dir) if working_dir else default_working_dir(), options["runtime_env"]
    needed = relative_paths(spec, folder)
    with tempfile.TemporaryDirectory(prefix="janus-batch-") as staged:
        stage(Path(staged), folder, job_file, needed)
        check_upload(Path(staged), folder, needed, runtime_env.get("excludes", []))
        say(f"uploading {folder} to {server.address}")
        runtime_env["working_dir"] = staged
        server.submit(submission_id, entrypoint(folder, job_file, render_options), **options)


def relative_paths(spec: JobSpec, folder: Path) -> dict[str, str]:
    """The relative paths in the job file, by key."""
    return {
        key: location
        for key, location in {**spec.data_folders, **spec.model_folders(folder)}.items()
        if "://" not in location and not location.startswith(("/", "~"))
    }


def _options(submission: Submission, spec: JobSpec) -> dict[str, Any]:
    """The options of Ray's client."""
    return {
        "runtime_env": _runtime_env(submission),
        "metadata": _metadata(submission, spec),
        "entrypoint_num_cpus": submission.entrypoint_num_cpus or None,
        "entrypoint_num_gpus": submission.entrypoint_num_gpus or None,
        "entrypoint_memory": submission.entrypoint_memory or None,
        "entrypoint_resources": _json_object("--entrypoint-resources", submission.entrypoint_resources) or None,
    }


def render_options(settings: Sequence[str], submission: Submission, as_written: JobSpec) -> list[str]:
    """The options of `render` on the cluster. The scheduled time is fixed here: there, a job may start much later."""
    options = [part for setting in settings for part in ("--set", setting)]
    if as_written.has_dates:
        options += ["--scheduled-at", scheduled_time(as_written, submission.scheduled_at).isoformat()]
    options += acceptance_options(submission.max_rejected, allow_empty=submission.allow_empty)
    return options + {"wait": ["--wait-for-output"], "ignore": ["--ignore-lease"]}.get(submission.when_held or "", [])


def _check_output(spec: JobSpec) -> None:
    """Refuse an output inside the uploaded folder, which Ray deletes; note that other local paths must be shared."""
    if "://" not in spec.output and not Path(spec.output).is_absolute():
        raise SubmissionError(
            f"output: {spec.output} is inside the uploaded folder, which Ray deletes after the job; allowed are "
            "URLs (s3://bucket/folder) and absolute paths on a file system that all nodes share"
        )
    for key, place in (("prompts", spec.prompts), ("output", spec.output)):
        if Path(place).is_absolute():
            say(f"note: {key}: {place} must be the same folder on every node of the cluster")


def _runtime_env(submission: Submission) -> dict[str, Any]:
    """The user's runtime environment plus the environment variables that --env names."""
    runtime_env = _json_object("--runtime-env-json", submission.runtime_env_json)
    if "working_dir" in runtime_env:
        raise SubmissionError("--runtime-env-json: name the working_dir with --working-dir")
    if "worker_process_setup_hook" in runtime_env:
        raise SubmissionError("--runtime-env-json: janus-batch sets worker_process_setup_hook itself; leave it out")
    if not isinstance(runtime_env.get("excludes", []), list):
        raise SubmissionError("--runtime-env-json: excludes must be a list of patterns, as in a .gitignore")
    missing = [name for name in submission.variables if name not in os.environ]
    if missing:
        raise SubmissionError(f"--env: {', '.join(missing)} is not set here, so there is no value to send")
    named = {name: os.environ[name] for name in submission.variables}
    given = runtime_env.get("env_vars", {})
    if not isinstance(given, dict):
        raise SubmissionError(f"--runtime-env-json: env_vars must be a JSON object, got {type(given).__name__}")
    return {**runtime_env, "env_vars": {**given, **named}}


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SubmissionError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SubmissionError(f"{option} must be a JSON object, got {type(value).__name__}")
    return value


def _metadata(submission: Submission, spec: JobSpec) -> dict[str, str]:
    """What the dashboard shows with the job: its name and locations, and the user's own metadata."""
    metadata = {"job_name": spec.name or "", "prompts": spec.prompts, "output": spec.output}
    for pair in submission.metadata:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise SubmissionError(f"--metadata takes key=value (--metadata team=search), got {pair!r}")
        if key in metadata:
            raise SubmissionError(f"--metadata: {key} is written by janus-batch itself; take another key")
        metadata[key] = value
    return metadata
