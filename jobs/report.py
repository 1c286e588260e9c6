"""`janus-batch report`: write report.html, or a page that compares two outputs, and print what it counts."""

from __future__ import annotations

from dataclasses import asdict

from jobs.terminal.printer import Printer, printing
from workflows.output.claim import open_output
from workflows.report.compare import Comparison, write_comparison
from workflows.report.quality_rules import RULE_NAMES
from workflows.report.write import Report, write_report
from workflows.storage.path import check_new_file

COMPARISON_FILE = "comparison.html"


def report(
    output: str,
    endpoint_url: str | None,
    *,
    other: str | None = None,
    to: str | None = None,
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """Write report.html into an output, finished or not; with another output, the page `to` that compares them."""
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        storage, _ = open_output(output, endpoint_url)
        if other is None:
            with printer.step("reading the manifest and the images"):
                written = write_report(storage)
            _print_report(written, printer)
        else:
            other_storage, _ = open_output(other, endpoint_url)
            check_new_file(to or COMPARISON_FILE, [storage.url, other_storage.url], "--to")
            with printer.step("reading both manifests and the images"):
                comparison = write_comparison(storage, other_storage, to or COMPARISON_FILE)
            _print_comparison(comparison, printer)
    return 0


def _print_report(report: Report, printer: Printer) -> None:
    shown = "all" if report.num_shown >= report.num_images else f"{report.num_shown:,}"
    matches = ", ".join(f"{report.num_matching[name]:,} {name}" for name in RULE_NAMES)
    printer.line(f"report      {report.url} ({report.num_bytes / 1e6:.1f} MB)")
    printer.line(f"images      {shown} of {report.num_images:,}")
    printer.line(f"rules       {matches}")
    printer.result(
        {
            "report": report.url,
            "num_bytes": report.num_bytes,
            "num_images": report.num_images,
            "num_shown": report.num_shown,
            "num_matching": {name: report.num_matching[name] for name in RULE_NAMES},
        }
    )


def _print_comparison(comparison: Comparison, printer: Printer) -> None:
    shown = "all" if comparison.num_shown >= comparison.num_pairs else f"{comparison.num_shown:,}"
    alone = comparison.num_alone
    names = ", ".join(difference.name for difference in comparison.facts.differences)
    printer.line(f"comparison  {comparison.file} ({comparison.num_bytes / 1e6:.1f} MB)")
    printer.line(f"pairs       {shown} of {comparison.num_pairs:,}; {alone[0]:,} only in A, {alone[1]:,} only in B")
    printer.line(f"differs     {names or 'no setting'}")
    for score in comparison.facts.scores:
        printer.line(
            f"score       {score.name}: {score.mean_first:.4g} in A, {score.mean_second:.4g} in B; "
            f"B is higher in {score.num_second_higher:,} of {score.num_pairs:,} pairs"
        )
    printer.result(
        {
            "comparison": comparison.file,
            "num_bytes": comparison.num_bytes,
            "num_pairs": comparison.num_pairs,
            "num_shown": comparison.num_shown,
            "num_alone": list(comparison.num_alone),
            "num_other_prompts": comparison.facts.num_other_prompts,
            "differences": [asdict(difference) for difference in comparison.facts.differences],
            "scores": [asdict(score) for score in comparison.facts.scores],
        }
    )
