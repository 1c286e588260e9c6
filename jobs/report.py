"""`janus-batch report`: write report.html and print where it is and what it counts."""

from __future__ import annotations

import click

from workflows.output.claim import open_output
from workflows.report.quality_rules import RULE_NAMES
from workflows.report.write import Report, write_report


def report(output: str, endpoint_url: str | None) -> int:
    """Write report.html into an output, finished or not. Returns 0."""
    storage, _ = open_output(output, endpoint_url)
    _print_report(write_report(storage))
    return 0


def _print_report(report: Report) -> None:
    shown = "all" if report.num_shown >= report.num_images else f"{report.num_shown:,}"
    matches = ", ".join(f"{report.num_matching[name]:,} {name}" for name in RULE_NAMES)
    click.echo(f"report      {report.url} ({report.num_bytes / 1e6:.1f} MB)")
    click.echo(f"images      {shown} of {report.num_images:,}")
    click.echo(f"rules       {matches}")
