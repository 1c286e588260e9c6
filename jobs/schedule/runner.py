"""The runs of schedules as processes: one at a time for each schedule, rendered here or submitted to a cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.job_file.spec import JobSpec
from jobs.schedule.state import Run, Runs
from jobs.terminal.view import say

RETRY_SECONDS = 60.0  # before the second try of a run that ended incomplete; doubled for each further one
STOP_SECONDS = 150.0  # for a render that is told to end: it finishes what is in flight
EXIT_FAILED = 1


class Runner:
    """Begins what is waiting and takes note of what ends. `step` does both and says whether there is more to come."""

    def __init__(
        self, runs: Runs, jobs: Mapping[str, tuple[Path, JobSpec]], settings: Sequence[str], address: str | None
    ) -> None:
        self._runs, self._jobs, self._settings, self._address = runs, jobs, settings, address
        self._processes: dict[str, tuple[Run, subprocess.Popen[bytes]]] = {}
        self.worst_exit_code = 0

    def step(self) -> bool:
        now = datetime.now(UTC)
        for name, (run, process) in list(self._processes.items()):
            if (exit_code := process.poll()) is not None:
                del self._processes[name]
                self._end(run, exit_code, now)
        for name in self._jobs:
            if name not in self._processes and (ready := self._runs.next_ready(name, now)):
                self._begin(ready, now)
        return bool(self._processes) or any(self._runs.all(name, "waiting") for name in self._jobs)

    def stop(self) -> None:
        """End what runs here, resumable, and let go of what runs on a cluster: the next scheduler takes up both."""
        for _, process in self._processes.values():
            process.send_signal(signal.SIGINT if self._address else signal.SIGTERM)
        for _, process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._runs.put_back_interrupted()

    def _begin(self, run: Run, now: datetime) -> None:
        command = self._command(run)
        say(f"{run.id}: {'begins' if not run.tries else f'try {run.tries + 1} begins'}")
        self._runs.begin(run, now)
        # A session of its own: a Ctrl-C is for the scheduler, which then ends its runs.
        self._processes[run.schedule] = run, subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _command(self, run: Run) -> list[str]:
        job_file, _ = self._jobs[run.schedule]
        command = [sys.executable, "-m", "jobs", *self._verb(run), str(job_file)]
        command += ["--scheduled-at", run.scheduled_at.isoformat()]
        return command + [part for setting in self._settings for part in ("--set", setting)]

    def _verb(self, run: Run) -> list[str]:
        """Both wait for the output: a run of an earlier scheduler may still hold it."""
        if self._address is None:
            return ["render", "--wait-for-output"]
        submission_id = run.id if not run.tries else f"{run.id}-{run.tries + 1}"
        return ["submit", "--wait-for-output", "--address", self._address, "--submission-id", submission_id]

    def _end(self, run: Run, exit_code: int, now: datetime) -> None:
        """Note how a run ended; one that is incomplete waits for another try."""
        section = self._jobs[run.schedule][1].schedule
        assert section is not None
        num_tries = run.tries + 1
        if exit_code not in (0, 2) and num_tries < section.max_tries:
            pause = timedelta(seconds=RETRY_SECONDS * 2**run.tries)
            say(f"{run.id}: ended incomplete (exit code {exit_code}), again in {pause.total_seconds():.0f} s")
            self._runs.put_back(run, exit_code, now + pause)
            return
        say(f"{run.id}: {'done' if exit_code == 0 else f'failed (exit code {exit_code})'}")
        self._runs.end(run, "failed" if exit_code else "done", exit_code, now)
        self.worst_exit_code = max(self.worst_exit_code, exit_code if exit_code in (0, 1, 2) else EXIT_FAILED)
