"""`janus-batch export`: write an output as a dataset or as a benchmark's folder, and print what it holds."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import Progress

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
    seed: int,
    split: str | None,
    licence: str | None,
    allow_incomplete: bool,
    push_to: str | None,
    c2pa: Unit | None,
    c2pa_certificate: str | None,
    c2pa_key: str | None,
) -> int:
    """Export an output and print the counts. Returns 0; errors are raised."""
    splits = () if split is None else read_splits(split)
    rules = Rules(where=tuple(where), top=top, by=by, pairs=pairs, sample=sample, seed=seed, splits=splits)
    credentials = None if c2pa is None else open_credentials(c2pa, c2pa_certificate, c2pa_key)
    source, _ = open_output(output, endpoint_url)
    is_same_store = dest.partition("://")[0] == source.url.partition("://")[0]
    destination = Storage(
        absolute_location(dest, "DEST"), source.options if is_same_store else {}, is_first_contact=True
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("shards", total=None)
        done = export_output(
            source,
            destination,
            layout,
            rules=rules,
            license_id=licence,
            allow_incomplete=allow_incomplete,
            push_to=push_to,
            credentials=credentials,
            say=lambda line: console.print(f"note       {line}", markup=False, highlight=False, soft_wrap=True),
            on_shard=lambda number, of: bar.update(task, completed=number, total=of),
        )
    _print_export(done, destination, layout)
    return 0


def _print_export(done: Export, dest: Storage, layout: str) -> None:
    written = done.written
    click.echo(f"export     {dest.url} ({layout})")
    click.echo(
        f"images     {written.num_images:,} of {written.num_prompts:,} prompts, {written.num_bytes / 1e6:,.1f} MB"
    )
    if written.num_pairs:
        click.echo(f"pairs      {written.num_pairs:,}")
    for split, of_split in done.splits.items():
        if split:
            click.echo(f"split      {split}: {of_split.num_images:,} images of {of_split.num_prompts:,} prompts")
    for rule, num_images in done.removed.items():
        click.echo(f"removed    {num_images:,} images by {rule}")
    click.echo(f"files      {written.num_files:,} and README.md, the dataset card")
    if done.num_shards_before:
        click.echo(f"resumed    {done.num_shards_before:,} of {done.num_shards:,} shards were already exported")
    if done.num_files_removed:
        click.echo(
            f"cleaned    {done.num_files_removed:,} files that an earlier export wrote and this one does not hold"
        )
    if written.num_left_out:
        click.echo(f"left out   {written.num_left_out:,} images, because other images of their grid are missing")
    if done.address:
        click.echo(f"uploaded   {done.address}")
    if done.num_missing:
        click.echo(f"missing    {done.num_missing:,} images of prompts that are not rendered yet")
