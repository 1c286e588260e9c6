"""A client for the job server of a Ray cluster: submits jobs, follows their logs, returns exit codes, stops jobs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from actors.errors import InputError, JobFailure, one_line
from jobs.terminal.exit_codes import EXIT_CODES, INCOMPLETE
from jobs.terminal.text import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_SECONDS = 1.0
SILENT_SECONDS = 60.0  # between two checks that the node of a job is still there
OLDEST_RAY = (2, 50)
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
# What to do if an upload is too large.
SMALLER = (
    "leave files out with a .gitignore, a .rayignore or --runtime-env-json '{\"excludes\": [...]}', or name a smaller "
    "folder; prompts can also be a URL, or a path on a file system that all nodes share"
)


class SubmissionError(InputError):
    """The job cannot be submitted: nothing to upload or too much, a variable that is not set, a wrong token."""


class JobServerAwayError(JobFailure):
    """The job server does not answer or has an internal error. The job may be running, or can be submitted later."""


class JobServer:
    """The job server at an http(s) address. Raises SubmissionError and JobServerAwayError from every method."""

    def __init__(self, address: str, *, silent_seconds: float = SILENT_SECONDS) -> None:
        self.address, self._silent_seconds = address, silent_seconds
        self._client = _connect(address)

    def knows(self, submission_id: str) -> bool:
        """Whether a job was submitted under this id."""
        try:
            with _submission_errors(self.address):
                self._client.get_job_status(submission_id)
        except SubmissionError as error:
            if "does not exist" in str(error):
                return False
            raise
        return True

    def submit(self, submission_id: str, entrypoint: str, **options: Any) -> None:
        """Upload the working directory and start the entrypoint; `options` are those of Ray's client."""
        with _submission_errors(self.address):
            self._client.submit_job(submission_id=submission_id, entrypoint=entrypoint, **options)

    def stop(self, submission_id: str) -> str:
        """Stop a job and wait for its end. Returns a sentence that says whether it was still running."""
        with _submission_errors(self.address):
            was_running = self._client.stop_job(submission_id)
            details = self._wait_for_end(submission_id)
        return f"{submission_id} {'is stopped' if was_running else 'had ended before'} ({details.status})"

    def follow(self, submission_id: str) -> int:
        """Show the job's log until it ends; returns its exit code. A Ctrl-C leaves the job running."""
        stop_command = f"janus-batch submit --stop {submission_id} --address {self.address}"
        try:
            asyncio.run(self._show_log(submission_id))
            return _exit_code(self._wait_for_end(submission_id))
        except KeyboardInterrupt:
            say(f"\nthe job keeps running on the cluster; to stop it: {stop_command}")
            return INCOMPLETE
        except OSError as error:  # of `requests`, too
            raise JobFailure(f"lost contact to {submission_id}: {error}; to stop it: {stop_command}") from error

    async def _show_log(self, submission_id: str) -> None:
        import aiohttp

        try:
            async for lines in self._client.tail_job_logs(submission_id):
                sys.stderr.write(lines)
                sys.stderr.flush()
        except (RuntimeError, aiohttp.ClientError) as error:
            say(f"lost the log ({error}); waiting for the job to end")

    def _wait_for_end(self, submission_id: str) -> JobDetails:
        """Wait until the job server says that the job has ended. Raises JobFailure if its node is gone."""
        check_at = time.monotonic() + self._silent_seconds
        while not (details := self._client.get_job_info(submission_id)).status.is_terminal():
            time.sleep(POLL_SECONDS)
            if time.monotonic() > check_at:
                self._check_node(submission_id, details)
                check_at = time.monotonic() + self._silent_seconds
        return details

    def _check_node(self, submission_id: str, details: JobDetails) -> None:
        """Raise JobFailure if the job's node does not answer: nothing there can report the end of the job."""
        try:
            self._client.get_job_logs(submission_id)
        except RuntimeError as error:
            raise JobFailure(
                f"{submission_id} has the status {details.status}, but its node no longer answers"
            ) from error


def most_bytes() -> int:
    """The most bytes that a job server takes in one upload. Ray packs files without compressing them."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    return int(DASHBOARD_CLIENT_MAX_SIZE)


def files_to_upload(folder: Path, excludes: Sequence[str]) -> set[str]:
    """The files, relative to `folder`, that Ray packs: those that no .gitignore, .rayignore or exclude matches."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: list[Path] = []
    respects_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    quiet = logging.getLogger("janus-batch.upload")
    quiet.setLevel(logging.WARNING)
    _dir_travel(folder, [_get_excludes(folder, list(excludes))], found.append, respects_gitignore, quiet)
    return {str(path.relative_to(folder)) for path in found if path.is_file()}


def _connect(address: str) -> JobSubmissionClient:
    if not address.startswith(("http://", "https://")):
        raise SubmissionError(
            f"--address must be the http(s) address of Ray's job server, such as http://HEAD:8265, got {address}"
        )
    for variable in ADDRESS_VARIABLES:
        os.environ.pop(variable, None)  # Ray's client would prefer them to the address it is given
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # `submit` reports the upload itself
    with _submission_errors(address):
        client = JobSubmissionClient(address)
        # No public method of the client tells the version of Ray.
        _check_version(address, client._do_request("GET", "/api/version").json().get("ray_version", ""))
        return client


def _check_version(address: str, version: str) -> None:
    """Raise SubmissionError for a cluster with a Ray on which the uploaded program does not run."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_RAY:
        raise SubmissionError(
            f"--address: the cluster at {address} has Ray {one_line(version)}, and janus-batch needs "
            f"{'.'.join(map(str, OLDEST_RAY))} or later on its nodes; start the cluster with a newer Ray"
        )


@contextmanager
def _submission_errors(address: str) -> Iterator[None]:
    """Turn errors between this machine and the job server into one clear line."""
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
                f"--working-dir: the folder is larger than the job server takes; {SMALLER}"
            ) from error
        if "status code 5" in str(error):  # for example, the agent on its node is still starting
            raise JobServerAwayError(f"the job server at {address} cannot take the request now: {error}") from error
        raise SubmissionError(f"the job server at {address} refused the request: {error}") from error


def _exit_code(details: JobDetails) -> int:
    """The driver's own exit code; 1 if something kept it from having one of ours."""
    if details.driver_exit_code in EXIT_CODES:
        return details.driver_exit_code
    say(f"the job ended as {details.status}: {details.message}")
    return INCOMPLETE
