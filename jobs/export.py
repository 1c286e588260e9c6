"""`janus-batch export`: write an output as a dataset or as a benchmark's folder, and print what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from jobs.terminal.printer import Printer, printing
from workflows.export.limits import bytes_text
from workflows.export.provenance import Unit, open_credentials
from workflows.export.rules import Rules, read_splits
from workflows.export.write import Export, export_output
from workflows.output.claim import open_output
from workflows.storage.path import absolute_location
from workflows.storage.store import Storage


def export(
    output: str,
    dest: str,
    endpoint_url: str | None,
    *,
    layout: str,
    where: Sequence[str],
    top: int | None,
    by: str | None,
    pairs: str | None,
    sample: int | None,
    seed: int | None,
    split: str | None,
    licence: str | None,
    allow_incomplete: bool,
    push_to: str | None,
    c2pa: Unit | None,
    c2pa_certificate: str | None,
    c2pa_key: str | None,
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """Export an output and print the counts. Returns 0; errors are raised."""
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        splits = () if split is None else read_splits(split)
        rules = Rules(where=tuple(where), top=top, by=by, pairs=pairs, sample=sample, seed=seed, splits=splits)
        credentials = None if c2pa is None else open_credentials(c2pa, c2pa_certificate, c2pa_key)
        source, _ = open_output(output, endpoint_url)
        is_same_store = dest.partition("://")[0] == source.url.partition("://")[0]
        destination = Storage(
            absolute_location(dest, "DEST", is_written=True),
            source.options if is_same_store else {},
            is_first_contact=True,
        )
        with printer.step("exporting shards") as update:
            done = export_output(
                source,
                destination,
                layout,
                rules=rules,
                license_id=licence,
                allow_incomplete=allow_incomplete,
                push_to=push_to,
                credentials=credentials,
                say=lambda line: printer.note(f"note       {line}"),
                on_shard=update,
            )
        _print_export(done, destination, layout, printer)
        printer.result({"export": destination.url, "layout": layout, **asdict(done)})
    return 0


def _print_export(done: Export, dest: Storage, layout: str, printer: Printer) -> None:
    written = done.written
    printer.line(f"export     {dest.url} ({layout})")
    printer.line(
        f"images     {written.num_images:,} of {written.num_prompts:,} prompts, {bytes_text(written.num_bytes)}"
    )
    if written.num_pairs:
        printer.line(f"pairs      {written.num_pairs:,}")
    for split, of_split in done.splits.items():
        if split:
            printer.line(f"split      {split}: {of_split.num_images:,} images of {of_split.num_prompts:,} prompts")
    for rule, num_images in done.removed.items():
        printer.line(f"removed    {num_images:,} images by {rule}")
    printer.line(f"files      {written.num_files:,} and README.md, the dataset card")
    if done.num_shards_before:
        printer.line(f"resumed    {done.num_shards_before:,} of {done.num_shards:,} shards were already exported")
    if done.num_files_removed:
        printer.line(
            f"cleaned    {done.num_files_removed:,} files that an earlier export wrote and this one does not hold"
        )
    if written.num_left_out:
        printer.line(f"left out   {written.num_left_out:,} images, because other images of their grid are missing")
    if done.address:
        printer.line(f"uploaded   {done.address}")
    if done.num_missing:
        printer.line(f"missing    {done.num_missing:,} images of prompts that are not rendered yet")
