"""Runs as processes: one at a time for each schedule, rendered on this machine or submitted to a cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from janus_batch import ROOT
from jobs.job_file.plain_id import plain_id
from jobs.schedule.scheduled_job import ScheduledJob
from jobs.schedule.state import Run, State
from jobs.terminal.exit_codes import DONE, EXIT_CODES, INCOMPLETE, WRONG
from jobs.terminal.text import say

# Runs this program from any folder.
PROGRAM = (sys.executable, "-P", str(Path(ROOT) / "janus_batch.py"))

RETRY_SECONDS = 60.0  # before the second try of an incomplete run; doubled for each further try
STOP_SECONDS = 150.0  # for a render to stop: it finishes the shards in flight


class Runner:
    """Starts waiting runs and records how they end. `step` does both and returns whether there is more to do.

    `acceptance`: options of each run that say what its output has to be.
    """

    def __init__(
        self,
        state: State,
        jobs: Sequence[ScheduledJob],
        settings: Sequence[str],
        address: str | None,
        *,
        acceptance: Sequence[str] = (),
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._state, self._settings, self._address = state, settings, address
        self._jobs = {job.name: job for job in jobs}
        self._acceptance, self._retry_seconds = acceptance, retry_seconds
        self._processes: dict[str, tuple[Run, subprocess.Popen[bytes]]] = {}
        self.worst_exit_code = 0

    def step(self) -> bool:
        now = datetime.now(UTC)
        for name, (run, process) in list(self._processes.items()):
            if (exit_code := process.poll()) is not None:
                del self._processes[name]
                self._end(run, exit_code, now)
        for name in self._jobs:
            if name not in self._processes and (ready := self._state.next_ready(name, now)):
                self._start(ready, now)
        return bool(self._processes) or any(self._state.runs(name, "waiting") for name in self._jobs)

    def stop(self) -> None:
        """Stop local runs and leave runs on a cluster running. The next scheduler continues both."""
        for _, process in self._processes.values():
            process.send_signal(signal.SIGINT if self._address else signal.SIGTERM)
        for _, process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._state.put_back_interrupted()

    def _start(self, run: Run, now: datetime) -> None:
        command = self._command(run)
        say(f"{run.id}: starting" + (f", try {run.tries + 1}" if run.tries else ""))
        self._state.start(run, now)
        # In its own session, so that a Ctrl-C reaches only the scheduler, which then stops its runs.
        self._processes[run.schedule] = run, subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _command(self, run: Run) -> list[str]:
        command = [*PROGRAM, *self._verb(run), str(self._jobs[run.schedule].job_file)]
        command += ["--scheduled-at", run.scheduled_at.isoformat(), *self._acceptance]
        return command + [part for setting in self._settings for part in ("--set", setting)]

    def _verb(self, run: Run) -> list[str]:
        """The verb and its options. Both verbs wait for the output: a run of an earlier scheduler may still hold it."""
        if self._address is None:
            return ["render", "--wait-for-output"]
        submission_id = plain_id(run.id if not run.tries else f"{run.id}-{run.tries + 1}")
        return ["submit", "--wait-for-output", "--address", self._address, "--submission-id", submission_id]

    def _end(self, run: Run, exit_code: int, now: datetime) -> None:
        """Record how a run ended. An incomplete run waits for another try."""
        if exit_code not in (DONE, WRONG) and run.tries + 1 < self._jobs[run.schedule].schedule.max_tries:
            pause = timedelta(seconds=self._retry_seconds * 2**run.tries)
            say(f"{run.id}: incomplete (exit code {exit_code}), next try in {pause.total_seconds():.0f} s")
            self._state.put_back(run, exit_code, now + pause)
            return
        say(f"{run.id}: {'done' if exit_code == DONE else f'failed (exit code {exit_code})'}")
        self._state.end(run, "failed" if exit_code else "done", exit_code, now)
        self.worst_exit_code = max(self.worst_exit_code, exit_code if exit_code in EXIT_CODES else INCOMPLETE)
