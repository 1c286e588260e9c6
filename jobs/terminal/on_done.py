"""The notification at the end of a job: a small JSON, posted to a URL or given to a command. Side work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from actors.errors import InputError, one_line
from jobs.terminal.exit_codes import DONE, INCOMPLETE, WRONG
from jobs.terminal.last_word import on_done_is_notified
from jobs.terminal.receiver import receiver_of
from jobs.terminal.text import clock_text, counted
from workflows.dispatch.drain import DrainedError
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output.acceptance import NUM_REASONS
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
    end = _End(state="done", exit_code=DONE)
    try:
        yield recorder
    except BaseException as error:
        end = _end_of(error)
        raise
    finally:
        facts = _facts(job, output, end, recorder.run, recorder.ended, time.monotonic() - started_at)
        on_done_is_notified()
        with side_work("on_done was not notified", show.line):
            receiver.take((json.dumps(facts, ensure_ascii=False) + "\n").encode())


def facts_of_lost(job: str, output: str, error: str) -> dict[str, Any]:
    """The JSON for a run whose process ends without a result; `seconds` is filled in then."""
    facts = _facts(job, output, _End(state="failed", exit_code=INCOMPLETE, error=error), None, None, None)
    return facts | {"num_images_this_run": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """How the job ended, with the exit code of the command line. `error` is its message in one line."""

    state: str
    exit_code: int
    error: str | None = None


def _end_of(error: BaseException) -> _End:
    if isinstance(error, KeyboardInterrupt | DrainedError):
        return _End(state="interrupted", exit_code=INCOMPLETE, error=_message(error) or None)
    if isinstance(error, InputError):
        return _End(state="refused", exit_code=WRONG, error=_message(error))
    return _End(state="failed", exit_code=INCOMPLETE, error=_message(error) or type(error).__name__)


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


def _facts(
    job: str, output: str, end: _End, run: Progress | None, ended: Result | None, seconds: float | None
) -> dict[str, Any]:
    """The JSON. The counts are those of the output; if the run did not get so far, what is known from its progress,
    null for nothing.
    """
    reasons = ended.tally.reasons.most_common(NUM_REASONS) if ended else []
    facts = {
        "state": end.state,
        "exit_code": end.exit_code,
        "error": end.error,
        "job": job,
        "output": output,
        "report": ended.report if ended else None,
        "num_images": ended.tally.num_images if ended else run and run.num_done,
        "num_images_total": run.num_images_total if run and run.num_images_total else None,
        "num_rejected": ended.tally.num_rejected if ended else run and run.num_rejected,
        "reasons": [{"reason": one_line(reason), "num_images": number} for reason, number in reasons],
        "num_images_this_run": run.num_images if run else 0,
        "images_per_second": run.images_per_second if run else None,
        "seconds": seconds and round(seconds, 1),
    }
    return {"text": _text(facts), **facts}


def _text(facts: dict[str, Any]) -> str:
    """One line for people, in the key that chats show."""
    parts = [f"{facts['job']} {facts['state']}"]
    if facts["error"]:
        parts.append(facts["error"])
    if facts["num_images"] is not None:
        parts.append(f"{counted(facts['num_images'], 'image')}, {facts['num_rejected']:,} rejected")
    if facts["images_per_second"] is not None:
        parts.append(f"{facts['images_per_second']:.2f} images/s")
    if facts["seconds"] is not None:
        parts.append(clock_text(facts["seconds"]))
    return " · ".join([*parts, facts["output"]])
