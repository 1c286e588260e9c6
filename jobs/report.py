"""`janus-batch report`: write report.html, or a page that compares two outputs, and print what it counts."""

from __future__ import annotations

import click

from workflows.output.claim import open_output
from workflows.report.compare import Comparison, write_comparison
from workflows.report.quality_rules import RULE_NAMES
from workflows.report.write import Report, write_report

COMPARISON_FILE = "comparison.html"


def report(output: str, endpoint_url: str | None, *, other: str | None = None, to: str | None = None) -> int:
    """Write report.html into an output, finished or not; with another output, the page `to` that compares them."""
    storage, _ = open_output(output, endpoint_url)
    if other is None:
        _print_report(write_report(storage))
    else:
        other_storage, _ = open_output(other, endpoint_url)
        _print_comparison(write_comparison(storage, other_storage, to or COMPARISON_FILE))
    return 0


def _print_report(report: Report) -> None:
    shown = "all" if report.num_shown >= report.num_images else f"{report.num_shown:,}"
    matches = ", ".join(f"{report.num_matching[name]:,} {name}" for name in RULE_NAMES)
    click.echo(f"report      {report.url} ({report.num_bytes / 1e6:.1f} MB)")
    click.echo(f"images      {shown} of {report.num_images:,}")
    click.echo(f"rules       {matches}")


def _print_comparison(comparison: Comparison) -> None:
    shown = "all" if comparison.num_shown >= comparison.num_pairs else f"{comparison.num_shown:,}"
    alone = comparison.num_alone
    names = ", ".join(difference.name for difference in comparison.facts.differences)
    click.echo(f"comparison  {comparison.file} ({comparison.num_bytes / 1e6:.1f} MB)")
    click.echo(f"pairs       {shown} of {comparison.num_pairs:,}; {alone[0]:,} only in A, {alone[1]:,} only in B")
    click.echo(f"differs     {names or 'no setting'}")
    for score in comparison.facts.scores:
        click.echo(
            f"score       {score.name}: {score.mean_first:.4g} in A, {score.mean_second:.4g} in B; "
            f"B is higher in {score.num_second_higher:,} of {score.num_pairs:,} pairs"
        )
