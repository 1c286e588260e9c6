"""What a notification says about the end of a job: a small JSON, with one line for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.errors import one_line
from jobs.terminal.exit_codes import INCOMPLETE
from jobs.terminal.text import clock_text, counted
from workflows.dispatch.progress import Progress
from workflows.output.acceptance import NUM_REASONS
from workflows.run import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How the job ended, with the exit code of the command line. `error` is its message in one line."""

    state: str
    exit_code: int
    error: str | None = None


def facts_of(
    job: str, output: str, end: End, run: Progress | None, ended: Result | None, seconds: float | None
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


def facts_of_lost(job: str, output: str, error: str) -> dict[str, Any]:
    """The JSON for a run whose process ends without a result; `seconds` is filled in then."""
    facts = facts_of(job, output, End(state="failed", exit_code=INCOMPLETE, error=error), None, None, None)
    return facts | {"num_images_this_run": None}


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
