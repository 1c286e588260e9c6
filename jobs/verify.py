"""`janus-batch verify`: check an output against its manifest and its prompts, and re-render some of its images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from actors.errors import InputError
from jobs.terminal.printer import Printer, printing
from jobs.terminal.text import counted
from workflows.export.check import check_export, is_export
from workflows.output.claim import Claim, open_output
from workflows.output.manifest import committed_parts
from workflows.output.remaining import plan_of
from workflows.plan import Plan, SourceChangedError
from workflows.prompts import PromptsError
from workflows.storage.errors import storage_errors
from workflows.storage.lease import hold_output
from workflows.storage.path import absolute_location
from workflows.storage.store import Storage
from workflows.verify.check import Findings, verify_output
from workflows.verify.repair import LIVE_SECONDS, Cleaning, Repairs, remove_orphans, repair_output
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
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """Print what was checked and found. Returns 1 if anything is missing or wrong.

    Writes a signed statement to `certificate`, if given. An export is checked in place of an output.
    """
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        signing_key = _signing_key(certificate, key, num_replays)
        if (exported := _open_export(output, endpoint_url)) is not None:
            if num_replays or is_repaired or is_cleaned:
                raise InputError(f"--replay, --repair and --clean are for outputs, and {exported.url} is an export")
            return _verify_export(exported, printer)
        return _verify_output(
            output,
            endpoint_url,
            printer,
            num_replays=num_replays,
            seed=seed,
            is_repaired=is_repaired,
            is_cleaned=is_cleaned,
            certificate=certificate,
            signing_key=signing_key,
        )


def _verify_output(
    output: str,
    endpoint_url: str | None,
    printer: Printer,
    *,
    num_replays: int,
    seed: int,
    is_repaired: bool,
    is_cleaned: bool,
    certificate: str | None,
    signing_key: SigningKey | None,
) -> int:
    may_hold_answers = not (num_replays or certificate)
    storage, claim = open_output(output, endpoint_url, may_hold_answers=may_hold_answers)
    # The files of a running attempt look like orphans, so no run may render while files are removed.
    is_held = is_repaired or is_cleaned
    with hold_output(storage, f"verify of {claim.name}", say=printer.note) if is_held else nullcontext():
        findings, facts = _check(storage, claim, printer, is_repaired=is_repaired, is_cleaned=is_cleaned)
    replays = print_replays(storage, num_replays, seed, printer) if num_replays else []
    num_different = sum(not replay.is_same for replay in replays)
    if certificate is not None and signing_key is not None:
        with storage_errors(storage.url):
            statement = statement_of(storage, claim, findings, replays, seed)
        write_statement(certificate, statement, signing_key)
        printer.line(f"statement   {certificate}, signed with {certificate}.sig; {certificate}.pub.pem checks it")
    is_good = findings.is_whole and not num_different
    printer.result({**facts, "replays": [asdict(replay) for replay in replays], "is_good": is_good})
    return 0 if is_good else 1


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


def _verify_export(dest: Storage, printer: Printer) -> int:
    with storage_errors(dest.url), printer.step("checking the files"):
        findings = check_export(dest)
    printer.line(f"files       {findings.num_files:,} of an export")
    printer.line(f"images      {findings.num_images:,}, checked against their rows")
    if findings.num_signed:
        printer.line(f"signed      {counted(findings.num_signed, 'valid C2PA manifest')}")
    printer.line(f"faults      {len(findings.faults):,}")
    printer.some(findings.faults, MAX_LINES)
    printer.result(
        {
            "export": dest.url,
            "num_files": findings.num_files,
            "num_images": findings.num_images,
            "num_signed": findings.num_signed,
            "faults": findings.faults,
        }
    )
    return 1 if findings.faults else 0


def _check(
    storage: Storage, claim: Claim, printer: Printer, *, is_repaired: bool, is_cleaned: bool
) -> tuple[Findings, dict[str, Any]]:
    """Check and print, then repair and clean where asked. The findings, and the facts for programs."""
    with storage_errors(storage.url), printer.step("checking the files") as update:
        parts = committed_parts(storage)
        plan: Plan | InputError
        try:
            plan = plan_of(storage, claim, parts)
        except (PromptsError, SourceChangedError) as error:  # the files that are there can be checked all the same
            if is_repaired or is_cleaned:
                raise
            plan = error
        findings = verify_output(storage, plan if isinstance(plan, Plan) else None, claim.recipe, update)
    _print_findings(findings, printer, holds_answers=claim.recipe.look is not None)
    if not isinstance(plan, Plan):
        raise plan
    repairs = _repair(storage, claim, plan, parts, findings, printer) if is_repaired else None
    cleaning = _clean(storage, findings, parts, printer) if is_cleaned else None
    return findings, {
        "output": storage.url,
        "num_images": findings.num_images,
        "num_rejected": findings.num_rejected,
        "num_missing": findings.num_missing,
        "faults": findings.faults,
        "orphans": findings.orphans,
        "repairs": repairs and asdict(repairs),
        "cleaning": cleaning and asdict(cleaning),
    }


def _print_findings(findings: Findings, printer: Printer, *, holds_answers: bool) -> None:
    what, checked = ("answers", "settings") if holds_answers else ("images", "files and SHA-256")
    printer.line(f"{what:<11} {findings.num_images:,} in the manifest, {checked} checked")
    printer.line(f"rejected    {findings.num_rejected:,}")
    printer.line("missing     unknown" if findings.num_missing is None else f"missing     {findings.num_missing:,}")
    printer.line(f"faults      {len(findings.faults):,}")
    printer.some(findings.faults, MAX_LINES)
    if findings.orphans:
        num_files = counted(len(findings.orphans), "file")
        printer.line(f"orphans     {num_files} that no manifest part names")
        printer.some(findings.orphans, MAX_LINES)


def _repair(
    storage: Storage, claim: Claim, plan: Plan, parts: list[str], findings: Findings, printer: Printer
) -> Repairs:
    """Make the images at fault pending, and print their shards."""
    with storage_errors(storage.url):
        repairs = repair_output(storage, claim, plan, parts, findings.at_fault)
    num_images, num_shards = counted(repairs.num_images, "image"), counted(len(repairs.repaired), "shard")
    printer.line(f"pending     {num_images} in {num_shards}; the next run of the job re-renders these images")
    printer.some(repairs.repaired, MAX_LINES)
    if repairs.taken_back:
        printer.line(f"taken back  {counted(len(repairs.taken_back), 'shard')}; the next run of the job renders them")
        printer.some(repairs.taken_back, MAX_LINES)
    if repairs.kept:
        printer.line(f"kept        {counted(len(repairs.kept), 'shard')} at fault whose prompt file is gone")
        printer.some(repairs.kept, MAX_LINES)
    return repairs


def _clean(storage: Storage, findings: Findings, parts: list[str], printer: Printer) -> Cleaning | None:
    """Remove the orphans, and print them. A manifest that is at fault cannot tell which files are orphans."""
    if findings.faults:
        printer.line("removed     nothing: a part of the manifest is at fault, so a file may only seem to be an orphan")
        return None
    with storage_errors(storage.url):
        cleaning = remove_orphans(storage, findings.orphans, parts)
    printer.line(f"removed     {len(cleaning.removed):,}")
    printer.some(cleaning.removed, MAX_LINES)
    if cleaning.kept:
        printer.line(
            f"kept        {len(cleaning.kept):,} of shards that are not committed: an attempt may still be writing "
            f"them; they are removed once the shard is committed or they are {LIVE_SECONDS // 3600} hours old"
        )
        printer.some(cleaning.kept, MAX_LINES)
    return cleaning


def print_replays(storage: Storage, num_replays: int, seed: int, printer: Printer) -> list[Replay]:
    """Re-render and print."""
    replays: list[Replay] = []
    with storage_errors(storage.url), printer.step("loading the model and re-rendering images") as update:
        for replay in replay_images(storage, num_replays, seed):
            replays.append(replay)
            update(len(replays), num_replays)
    num_same = sum(replay.same_bytes for replay in replays)
    different = [replay for replay in replays if not replay.same_pixels]
    num_texts = len(replays) - num_same - len(different)
    with_text = f", {num_texts:,} with the same pixels and another text in the file" if num_texts else ""
    printer.line(f"replayed    {len(replays):,} images, {num_same:,} with the same bytes{with_text}")
    printer.some([f"{replay.image}: {replay.difference}" for replay in different], MAX_LINES)
    judged = [replay for replay in replays if replay.score is not None]
    if judged:
        num_scores = sum(replay.same_score for replay in judged)
        printer.line(f"looked at   {len(judged):,} images, {num_scores:,} with the same score")
        printer.some(
            [f"{replay.image}: the score is {replay.score}" for replay in judged if not replay.same_score], MAX_LINES
        )
    return replays
