"""`janus-batch verify`: check an output against its manifest and its prompts, and re-render some of its images."""

from __future__ import annotations

from contextlib import nullcontext

import click

from actors.errors import InputError
from jobs.terminal.text import counted
from workflows.export.check import check_export, is_export
from workflows.output.claim import Claim, open_output
from workflows.output.manifest import committed_parts
from workflows.output.remaining import plan_of
from workflows.plan import Plan
from workflows.storage.errors import storage_errors
from workflows.storage.lease import hold_output
from workflows.storage.path import absolute_location
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output
from workflows.verify.repair import LIVE_SECONDS, remove_orphans, repair_output
from workflows.verify.replay import Replay, replay_images
from workflows.verify.signing import SigningKey, read_signing_key
from workflows.verify.statement import statement_of, write_statement

MAX_LINES = 20  # of each kind of finding


def verify(
    output: str,
    endpoint_url: str | None,
    *,
    num_replays: int,
    seed: int,
    is_repaired: bool,
    is_cleaned: bool,
    certificate: str | None = None,
    key: str | None = None,
) -> int:
    """Print what was checked and found. Returns 1 if anything is missing or wrong.

    Writes a signed statement to `certificate`, if given. An export is checked in place of an output.
    """
    signing_key = _signing_key(certificate, key, num_replays)
    if (exported := _open_export(output, endpoint_url)) is not None:
        if num_replays or is_repaired or is_cleaned:
            raise InputError(f"--replay, --repair and --clean are for outputs, and {exported.url} is an export")
        return _verify_export(exported)
    storage, claim = open_output(output, endpoint_url, may_hold_answers=not (num_replays or certificate))
    # The files of a running attempt look like orphans, so no run may render while files are removed.
    is_held = is_repaired or is_cleaned
    with hold_output(storage, f"verify of {claim.name}", say=click.echo) if is_held else nullcontext():
        findings = _check(storage, claim, is_repaired=is_repaired, is_cleaned=is_cleaned)
    replays = print_replays(storage, num_replays, seed) if num_replays else []
    num_different = sum(not replay.is_same for replay in replays)
    if certificate is not None and signing_key is not None:
        with storage_errors(storage.url):
            statement = statement_of(storage, claim, findings, replays, seed)
        write_statement(certificate, statement, signing_key)
        click.echo(f"statement   {certificate}, signed with {certificate}.sig; {certificate}.pub.pem checks it")
    return 0 if findings.is_whole and not num_different else 1


def _signing_key(certificate: str | None, key: str | None, num_replays: int) -> SigningKey | None:
    """The key of --certificate, read before anything is checked. Raises InputError."""
    if certificate is None:
        return None
    if key is None or not num_replays:
        raise InputError("--certificate needs --replay N and --key, the file of a private key")
    return read_signing_key(key, "--key")


def _open_export(folder: str, endpoint_url: str | None) -> Storage | None:
    """The storage of an export; None for any other folder."""
    url = absolute_location(folder, "OUTPUT")
    with storage_errors(url):
        storage = Storage(url, {"endpoint_url": endpoint_url} if endpoint_url else {}, is_first_contact=True)
        return storage if is_export(storage) else None


def _verify_export(dest: Storage) -> int:
    with storage_errors(dest.url):
        findings = check_export(dest)
    click.echo(f"files       {findings.num_files:,} of an export")
    click.echo(f"images      {findings.num_images:,}, checked against their rows")
    if findings.num_signed:
        click.echo(f"signed      {counted(findings.num_signed, 'valid C2PA manifest')}")
    click.echo(f"faults      {len(findings.faults):,}")
    _print_some(findings.faults)
    return 1 if findings.faults else 0


def _check(storage: Storage, claim: Claim, *, is_repaired: bool, is_cleaned: bool) -> Findings:
    """Check and print, then repair and clean where asked."""
    with storage_errors(storage.url):
        parts = committed_parts(storage)
        plan = plan_of(storage, claim, parts)
        findings = verify_output(storage, plan, claim.recipe)
    _print_findings(findings, holds_answers=claim.recipe.look is not None)
    if is_repaired:
        _repair(storage, claim, plan, parts, findings)
    if is_cleaned:
        _clean(storage, findings, parts)
    return findings


def _print_findings(findings: Findings, *, holds_answers: bool) -> None:
    what, checked = ("answers", "settings") if holds_answers else ("images", "files and SHA-256")
    click.echo(f"{what:<11} {findings.num_images:,} in the manifest, {checked} checked")
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


def print_replays(storage: Storage, num_replays: int, seed: int) -> list[Replay]:
    """Re-render and print."""
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
    return replays
