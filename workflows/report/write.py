"""report.html of an output: the pictures, the settings, the throughput and the rejected rows as one page.

Reads the output and, of the prompt files, their footers; needs neither Ray nor a network.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from workflows.report.facts import gather_facts
from workflows.report.page import make_page
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A written report: where it is, how large, how many of the images it shows, how many have each flag."""

    place: str
    num_bytes: int
    num_images: int
    num_shown: int
    flagged: Counter[str]


def write_report(storage: Storage) -> Report:
    """Write report.html into an output, over an older one. Raises StorageError if it is no output or not readable."""
    with storage_errors(storage.url):
        facts = gather_facts(storage)
    page = make_page(facts).encode()
    with storage_errors(storage.url):
        storage.write(REPORT_FILE, page)
    return Report(
        place=f"{storage.url}/{REPORT_FILE}",
        num_bytes=len(page),
        num_images=facts.survey.num_images,
        num_shown=len(facts.pictures),
        flagged=facts.survey.flagged,
    )
