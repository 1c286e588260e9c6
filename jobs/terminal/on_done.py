"""Notifies a URL or a command at the end of a job. Side work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from actors.errors import InputError, one_line
from jobs.terminal.exit_codes import DONE, INCOMPLETE, WRONG
from jobs.terminal.last_word import on_done_is_notified
from jobs.terminal.notification import End, facts_of
from jobs.terminal.receiver import receiver_of
from workflows.dispatch.drain import DrainedError
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.plan import Plan
from workflows.run import Result, Show
from workflows.side_work import side_work

MAX_LINES = 4  # of an error's message


@contextmanager
def notifying(on_done: str | None, job: str, output: str, show: Show) -> Iterator[Show]:
    """Notify the receiver when the block has ended, however it ends. Yields what the block is to show its run with.

    Raises JobFileError at the start if the receiver's environment variable is not set.
    """
    if on_done is None:
        yield show
        return
    receiver, recorder, started_at = receiver_of(on_done), _Recorder(show), time.monotonic()
    end = End(state="done", exit_code=DONE)
    try:
        yield recorder
    except BaseException as error:
        end = _end_of(error)
        raise
    finally:
        facts = facts_of(job, output, end, recorder.run, recorder.ended, time.monotonic() - started_at)
        on_done_is_notified()
        with side_work("on_done was not notified", show.line):
            receiver.take((json.dumps(facts, ensure_ascii=False) + "\n").encode())


def _end_of(error: BaseException) -> End:
    if isinstance(error, KeyboardInterrupt | DrainedError):
        return End(state="interrupted", exit_code=INCOMPLETE, error=_message(error) or None)
    if isinstance(error, InputError):
        return End(state="refused", exit_code=WRONG, error=_message(error))
    return End(state="failed", exit_code=INCOMPLETE, error=_message(error) or type(error).__name__)


def _message(error: BaseException) -> str:
    """The first lines: a job that rejected every row has its reasons there."""
    return "; ".join(one_line(line) for line in str(error).splitlines()[:MAX_LINES])


class _Recorder:
    """Passes on what a run shows, and keeps what the notification is made of."""

    def __init__(self, show: Show) -> None:
        self._show, self.line, self.report = show, show.line, show.report
        self.run: Progress | None = None
        self.ended: Result | None = None

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        self._show.plan(job, plan, is_resumed=is_resumed)

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        self.run = progress
        return self._show.progress(progress)

    def result(self, result: Result) -> None:
        self.ended = result
        self._show.result(result)
