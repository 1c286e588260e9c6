"""`janus-batch report`: write the page and say where it is and what it counted."""

from __future__ import annotations

import click

from workflows.output.claim import open_output
from workflows.report.quality_rules import FLAG_NAMES
from workflows.report.write import Report, write_report


def report(output: str, endpoint_url: str | None) -> int:
    """Write report.html into an output; 0 also for one that is not finished."""
    storage, _ = open_output(output, endpoint_url)
    _print_report(write_report(storage))
    return 0


def _print_report(report: Report) -> None:
    shown = "all" if report.num_shown >= report.num_images else f"{report.num_shown:,}"
    click.echo(f"report      {report.place} ({report.num_bytes / 1e6:.1f} MB)")
    click.echo(f"pictures    {shown} of {report.num_images:,}")
    flagged = ", ".join(f"{report.flagged[name]:,} {name}" for name in FLAG_NAMES)
    click.echo(f"by rules    {flagged}")
