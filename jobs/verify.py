"""`janus-batch verify`: check an output against its manifest and its prompts, and re-render some of its images."""

from __future__ import annotations

from contextlib import nullcontext

import click

from jobs.terminal.text import counted
from workflows.output.claim import Claim, open_output
from workflows.output.manifest import committed_parts
from workflows.output.remaining import plan_of
from workflows.plan import Plan
from workflows.storage.errors import storage_errors
from workflows.storage.lease import hold_output
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output
from workflows.verify.repair import LIVE_SECONDS, remove_orphans, repair_output
from workflows.verify.replay import replay_images

MAX_LINES = 20  # of each kind of finding


def verify(
    output: str, endpoint_url: str | None, *, num_replays: int, seed: int, is_repaired: bool, is_cleaned: bool
) -> int:
    """Print what was checked and found. Returns 1 if anything is missing or wrong."""
    storage, claim = open_output(output, endpoint_url)
    # The files of a running attempt look like orphans, so no run may render while files are removed.
    is_held = is_repaired or is_cleaned
    with hold_output(storage, f"verify of {claim.name}", say=click.echo) if is_held else nullcontext():
        findings = _check(storage, claim, is_repaired=is_repaired, is_cleaned=is_cleaned)
    num_different = print_replays(storage, num_replays, seed) if num_replays else 0
    return 0 if findings.is_whole and not num_different else 1


def _check(storage: Storage, claim: Claim, *, is_repaired: bool, is_cleaned: bool) -> Findings:
    """Check and print, then repair and clean where asked."""
    with storage_errors(storage.url):
        parts = committed_parts(storage)
        plan = plan_of(storage, claim, parts)
        findings = verify_output(storage, plan, claim.recipe)
    _print_findings(findings)
    if is_repaired:
        _repair(storage, claim, plan, parts, findings)
    if is_cleaned:
        _clean(storage, findings, parts)
    return findings


def _print_findings(findings: Findings) -> None:
    click.echo(f"images      {findings.num_images:,} in the manifest, files and SHA-256 checked")
    click.echo(f"rejected    {findings.num_rejected:,}")
    click.echo(f"missing     {findings.num_missing:,}")
    click.echo(f"faults      {len(findings.faults):,}")
    _print_some(findings.faults)
    if findings.orphans:
        num_files = counted(len(findings.orphans), "file")
        click.echo(f"orphans     {num_files} that no manifest part names")
        _print_some(findings.orphans)


def _repair(storage: Storage, claim: Claim, plan: Plan, parts: list[str], findings: Findings) -> None:
    """Make the images at fault pending, and print their shards."""
    with storage_errors(storage.url):
        repairs = repair_output(storage, claim, plan, parts, findings.at_fault)
    num_images, num_shards = counted(repairs.num_images, "image"), counted(len(repairs.repaired), "shard")
    click.echo(f"pending     {num_images} in {num_shards}; the next run of the job re-renders these images")
    _print_some(repairs.repaired)
    if repairs.taken_back:
        click.echo(f"taken back  {counted(len(repairs.taken_back), 'shard')}; the next run of the job renders them")
        _print_some(repairs.taken_back)
    if repairs.kept:
        click.echo(f"kept        {counted(len(repairs.kept), 'shard')} at fault whose prompt file is gone")
        _print_some(repairs.kept)


def _clean(storage: Storage, findings: Findings, parts: list[str]) -> None:
    """Remove the orphans, and print them. A manifest that is at fault cannot tell which files are orphans."""
    if findings.faults:
        click.echo("removed     nothing: a part of the manifest is at fault, so a file may only seem to be an orphan")
        return
    with storage_errors(storage.url):
        cleaning = remove_orphans(storage, findings.orphans, parts)
    click.echo(f"removed     {len(cleaning.removed):,}")
    _print_some(cleaning.removed)
    if cleaning.kept:
        click.echo(
            f"kept        {len(cleaning.kept):,} of shards that are not committed: an attempt may still be writing "
            f"them; they are removed once the shard is committed or they are {LIVE_SECONDS // 3600} hours old"
        )
        _print_some(cleaning.kept)


def _print_some(lines: list[str]) -> None:
    for line in lines[:MAX_LINES]:
        click.echo(f"  {line}")
    if len(lines) > MAX_LINES:
        click.echo(f"  ... and {len(lines) - MAX_LINES:,} more")


def print_replays(storage: Storage, num_replays: int, seed: int) -> int:
    """Re-render and print. Returns the number of images with other pixels."""
    with storage_errors(storage.url):
        replays = list(replay_images(storage, num_replays, seed))
    num_same = sum(replay.same_bytes for replay in replays)
    different = [replay for replay in replays if not replay.same_pixels]
    num_texts = len(replays) - num_same - len(different)
    with_text = f", {num_texts:,} with the same pixels and another text in the file" if num_texts else ""
    click.echo(f"replayed    {len(replays):,} images, {num_same:,} with the same bytes{with_text}")
    _print_some([f"{replay.image}: {replay.difference}" for replay in different])
    judged = [replay for replay in replays if replay.score is not None]
    if judged:
        num_scores = sum(replay.same_score for replay in judged)
        click.echo(f"looked at   {len(judged):,} images, {num_scores:,} with the same score")
        _print_some([f"{replay.image}: the score is {replay.score}" for replay in judged if not replay.same_score])
    return sum(not replay.is_same for replay in replays)
