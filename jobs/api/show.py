"""How a render of the Python API shows its progress: like the command line, as one line in a notebook, or not at all.

Each class implements `workflows.run.Show`.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from jobs.terminal.lines import plan_lines, progress_line
from jobs.terminal.show import NOT_SHOWN
from jobs.terminal.show import showing as showing_in_terminal
from jobs.terminal.text import counted
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.plan import Plan
from workflows.run import Result, Show
from workflows.side_work import in_background

POLL_SECONDS = 0.5
LOGGER = logging.getLogger("janus_batch")


def showing(job: str, output: str, *, has_progress: bool) -> AbstractContextManager[Show]:
    """The right way to show a job."""
    if not has_progress:
        return nullcontext(SilentShow())
    if "ipykernel" in sys.modules:
        return nullcontext(NotebookShow())
    return showing_in_terminal(job, output)


class SilentShow:
    """Prints nothing. The lines go to the logger `janus_batch`, which shows them if the program asks for its level."""

    def line(self, text: str) -> None:
        LOGGER.info(text)

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        for line in plan_lines(job, plan, is_resumed=is_resumed):
            LOGGER.info(line)

    def progress(self, progress: Progress) -> AbstractContextManager[None]:
        return nullcontext()

    def report(self, url: str) -> None:
        LOGGER.info(f"report    {url}")

    def result(self, result: Result) -> None:
        """The output says it."""


class NotebookShow:
    """Prints on standard output, where a notebook shows plain lines, and overwrites the line of the progress."""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def plan(self, job: RenderJob, plan: Plan, *, is_resumed: bool) -> None:
        for line in plan_lines(job, plan, is_resumed=is_resumed):
            print(line)

    @contextmanager
    def progress(self, progress: Progress) -> Iterator[None]:
        width = 0

        def show(text: str, end: str = "") -> None:
            nonlocal width
            width = max(width, len(text))
            print(f"\r{text:<{width}}", end=end, flush=True)

        def keep_showing(stop: threading.Event) -> None:
            shown_trouble_at = None
            while not stop.wait(POLL_SECONDS):
                if progress.last_trouble_at != shown_trouble_at:
                    shown_trouble_at = progress.last_trouble_at
                    show(f"trouble: {progress.last_trouble}", end="\n")
                show(progress_line(progress))

        try:
            with in_background(NOT_SHOWN, self.line, keep_showing):
                yield
        finally:
            show(progress_line(progress, is_over=True), end="\n")

    def report(self, url: str) -> None:
        print(f"report    {url} (refreshed while the job runs)")

    def result(self, result: Result) -> None:
        tally = result.tally
        print(f"done: {counted(tally.num_images, 'image')}, {tally.num_rejected:,} rejected, in {result.seconds:.0f} s")
        if result.report:
            print(f"report    {result.report}")
