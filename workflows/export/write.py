"""Export an output in the layout that another program reads, with a dataset card: shard by shard, streaming.

`.export/` in the destination holds a claim and a mark for each finished shard; the card is written last. The same
command resumes an interrupted export, and follows the output: images and scores that it gained since are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workflows.export.card import CardFacts, dataset_card, read_license
from workflows.export.destination import (
    CARD_FILE,
    ExpectedFiles,
    FilesMissingError,
    claim_destination,
    read_mark,
    write_mark,
)
from workflows.export.inventory import take_inventory
from workflows.export.layouts.layout import ExportError, ExportLayout, Whole, Written
from workflows.export.layouts.table import EXPORT_LAYOUTS
from workflows.export.limits import check_limits, limits_of_export
from workflows.export.provenance import Credentials
from workflows.export.push import open_repository, push_export
from workflows.export.rules import NO_RULES, Rules
from workflows.export.shards import Work, read_shard, write_shard
from workflows.output.claim import SUCCESS_FILE, Claim, read_claim
from workflows.output.manifest import committed_parts, kind_of_recipe, parts_of_shards
from workflows.output.remaining import completion_of
from workflows.output.tally import tally_output
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """The counts of a finished export.

    * `written`: in all; `splits`: by split. `removed`: images that each rule removed.
    * `num_shards_before` of its shards were there when it started. `num_files_removed` files of earlier exports do not
      belong to it any more.
    * `num_missing` images of the output are not rendered yet (None if the prompts are gone).
    * `address`: the repository of the hub that it was uploaded to.
    """

    written: Written
    splits: dict[str, Written]
    removed: dict[str, int]
    num_shards: int
    num_shards_before: int
    num_files_removed: int
    num_missing: int | None
    address: str | None


def export_output(
    source: Storage,
    dest: Storage,
    layout: str,
    *,
    rules: Rules = NO_RULES,
    license_id: str | None = None,
    allow_incomplete: bool = False,
    push_to: str | None = None,
    credentials: Credentials | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
) -> Export:
    """Write the committed images of an output that the rules keep into `dest`.

    `push_to` is a repository of the hub to upload to. `credentials` sign a C2PA manifest for each image or shard. `say`
    is told, before anything is written, which limits of the hub the export exceeds.

    Raises ExportError, RowFilterError, ColumnError, StorageError or DamagedFileError, and FilesMissingError if files
    are missing from `dest` at the end.
    """
    chosen_layout, license_id = EXPORT_LAYOUTS[layout], None if license_id is None else read_license(license_id)
    _check_fit(layout, chosen_layout, rules, dest)
    if credentials is not None and not (chosen_layout.has_columns and chosen_layout.has_pixels):
        raise ExportError(f"--c2pa needs a layout that holds the images and their rows, got {layout}")
    with storage_errors(source.url):
        claim, parts = read_claim(source), committed_parts(source)
        if kind_of_recipe(claim.recipe) == "answers":
            raise ExportError(
                f"{source.url} holds answers about images that you have, and no images to export; its Parquet files in "
                "manifest/ are a dataset as they are"
            )
        num_missing = _check_complete(source, claim, parts, allow_incomplete)
        shards = parts_of_shards(parts)
        inventory = take_inventory(
            source, shards, chosen_layout, claim.recipe, rules, allow_incomplete=allow_incomplete
        )
        tally = tally_output(source.url, source.options)
    lines = limits_of_export(chosen_layout, inventory, len(shards))
    if push_to is not None:
        check_limits(lines, push_to)
        open_repository(dest, push_to)
    for line in lines:
        say(line)
    work = Work(
        source=source,
        dest=dest,
        layout=chosen_layout,
        recipe=claim.recipe,
        inventory=inventory,
        credentials=credentials,
    )
    with storage_errors(dest.url):
        claimed = {
            "output": source.url,
            "layout": layout,
            "recipe": claim.recipe.to_dict(),
            "rules": rules.to_dict(),
            "c2pa": None if credentials is None else {"unit": credentials.unit, "certificate": credentials.fingerprint},
        }
        claim_destination(dest, source, claimed)
        splits, num_shards_before, num_files_removed = _write_shards(work, shards, on_shard)
        written = sum(splits.values(), Written())
        if written.num_images + written.num_left_out != inventory.num_images:
            raise FilesMissingError(f"{source.url} was changed while it was exported")
        facts = CardFacts(
            claim=claim,
            layout=layout,
            written=written,
            splits=splits,
            tally=tally,
            inventory=inventory,
            license_id=license_id,
            repository=push_to,
            signed_unit=None if credentials is None else credentials.unit,
        )
        dest.write(CARD_FILE, dataset_card(facts).encode())
    address = None if push_to is None else push_export(dest, push_to, chosen_layout)
    return Export(
        written=written,
        splits=splits,
        removed=inventory.removed,
        num_shards=len(shards),
        num_shards_before=num_shards_before,
        num_files_removed=num_files_removed,
        num_missing=num_missing,
        address=address,
    )


def _check_fit(name: str, layout: ExportLayout, rules: Rules, dest: Storage) -> None:
    """Raise ExportError for rules or a destination that do not fit a layout."""
    if rules.pairs is not None and layout.write_pairs is None:
        names = [other for other, one in EXPORT_LAYOUTS.items() if one.write_pairs is not None]
        raise ExportError(f"--pairs needs a layout with pairs ({', '.join(names)}), got {name}")
    if rules.pairs is None and layout.write is None:
        raise ExportError(f"layout {name} holds pairs of images; add --pairs COLUMN")
    if layout.is_local_only and not dest.is_local:
        raise ExportError(f"layout {name} is written to a local disk, got {dest.url}; upload the folder afterwards")
    if rules.splits and not layout.has_splits:
        raise ExportError(f"--split needs a layout for datasets, and {name} is the folder of a benchmark")


def _check_complete(source: Storage, claim: Claim, parts: list[str], allow_incomplete: bool) -> int | None:
    """The number of images that are not rendered yet; None if the prompts are gone. Raises ExportError."""
    if not parts:
        raise ExportError(f"{source.url} holds no committed images yet")
    completion = completion_of(source, claim, parts)
    if not completion.is_finished and not allow_incomplete:
        missing = "an unknown number of" if completion.num_missing is None else f"{completion.num_missing:,}"
        lack = f"{missing} images are missing" if completion.num_missing != 0 else f"{SUCCESS_FILE} is missing"
        raise ExportError(
            f"{source.url} is not complete ({lack}); finish it with `janus-batch render`, or export the images it has "
            "with --allow-incomplete"
        )
    return completion.num_missing


def _write_shards(
    work: Work, shards: Sequence[Sequence[str]], on_shard: Callable[[int, int], None]
) -> tuple[dict[str, Written], int, int]:
    """The counts of all shards by split, how many shards were already there, and the number of files removed."""
    splits: dict[str, Written] = {split.name: Written() for split in work.rules.splits} or {"": Written()}
    details: dict[str, list[str]] = {split: [] for split in splits}
    whole = Whole(dest=work.dest, details=details, recipe=work.recipe, storage_options=work.source.options)
    others = work.layout.begin(whole)
    expected, num_shards_before = ExpectedFiles(work.layout), 0
    for number, parts in enumerate(shards, start=1):
        shard = read_shard(work, parts)
        mark = read_mark(work.dest, parts[0])
        if mark is None or mark.digest != shard.digest or not mark.written.keys() <= splits.keys():
            mark = write_shard(work, parts[0], shard)
            write_mark(work.dest, parts[0], mark)
        else:
            num_shards_before += 1
        expected.add(parts[0], mark.names)
        for split, written in mark.written.items():
            splits[split] += written
            details[split] += mark.details.get(split, [])
        on_shard(number, len(shards))
    others = [*others, *work.layout.finish(whole)]
    return splits, num_shards_before, expected.check(work.dest, others)
