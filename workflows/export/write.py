"""An output in the layout that another program reads, with a dataset card: shard by shard, streaming.

DEST is claimed by `.export/claim.json`, a shard that is there is marked in `.export/`, and the card is written last.
The same command goes on where one was interrupted, and adds what the output has got since.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.export.card import CardFacts, dataset_card
from workflows.export.images import images_by_prompt
from workflows.export.layouts import EXPORT_LAYOUTS, ExportError, Written
from workflows.output.claim import Claim, read_claim
from workflows.output.manifest import committed_parts, manifest_name, part_errors, parts_of_shards
from workflows.output.tally import completion_of, tally_output
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

MARKS = ".export"  # readers of a folder of data pass over names that begin with a dot
CLAIM_FILE, CARD_FILE = f"{MARKS}/claim.json", "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What a finished export holds, and how many of its shards stood there before."""

    written: Written
    num_shards: int
    num_shards_before: int
    num_missing: int | None


def export_output(
    source: Storage,
    dest: Storage,
    layout: str,
    *,
    licence: str | None = None,
    allow_incomplete: bool = False,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
) -> Export:
    """Write every committed image of an output into `dest`. Raises ExportError, StorageError or DamagedFileError."""
    writer = EXPORT_LAYOUTS[layout]
    with storage_errors(source.url):
        claim, shard_ids = read_claim(source), committed_parts(source)
        recipe = claim.recipe
        num_missing = _check_complete(source, claim, shard_ids, allow_incomplete)
        schema = _common_schema(source, shard_ids)
        writer.check(recipe, schema)
        tally = tally_output(source.url, source.options)
    with storage_errors(dest.url):
        _claim(dest, {"output": source.url, "layout": layout, "recipe": recipe.to_dict()})
        before = set(dest.names(MARKS))
        groups = parts_of_shards(shard_ids) if writer.wants_whole_prompts else [[part] for part in shard_ids]
        marks = [f"{parts[-1]}.json" for parts in groups]
        for number, (parts, mark) in enumerate(zip(groups, marks, strict=True), start=1):
            if mark not in before:
                written = writer.write(dest, parts[-1], images_by_prompt(source, parts), schema, recipe)
                dest.write(f"{MARKS}/{mark}", written.to_json())
            on_shard(number, len(groups))
        total = sum((Written.from_json(dest.read(f"{MARKS}/{mark}")) for mark in marks), Written())
        facts = CardFacts(claim=claim, layout=layout, written=total, tally=tally, schema=schema, licence=licence)
        dest.write(CARD_FILE, dataset_card(facts).encode())
    return Export(
        written=total,
        num_shards=len(groups),
        num_shards_before=len(before.intersection(marks)),
        num_missing=num_missing,
    )


def _check_complete(source: Storage, claim: Claim, shard_ids: list[str], allow_incomplete: bool) -> int | None:
    """The number of images that are missing; None where the prompts are gone and nobody knows."""
    if not shard_ids:
        raise ExportError(f"{source.url} holds no committed images yet")
    completion = completion_of(source, claim, shard_ids)
    if not completion.is_finished and not allow_incomplete:
        missing = "it is not known how many" if completion.num_missing is None else f"{completion.num_missing:,}"
        raise ExportError(
            f"{source.url} is not complete ({missing} images are missing); finish it with `janus-batch render`, or "
            "export what is there with --allow-incomplete"
        )
    return completion.num_missing


def _common_schema(source: Storage, shard_ids: list[str]) -> pa.Schema:
    """Every column that some manifest part has: prompt files may carry other columns each."""
    schemas = []
    for shard_id in shard_ids:
        name = manifest_name(shard_id)
        with part_errors(source, name), source.fs.open(source.path(name), "rb") as file:
            schemas.append(pq.read_schema(file).remove_metadata())
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise ExportError(
            f"{source.url}: a column has types in two prompt files that fit no one type: {error}"
        ) from error


def _claim(dest: Storage, claim: dict[str, Any]) -> None:
    """Make an empty folder ours; one that is ours must be of the same output, layout and recipe."""
    text = json.dumps(claim, indent=2) + "\n"
    if not dest.exists(CLAIM_FILE):
        if dest.walk(""):
            raise ExportError(f"{dest.url} holds files and is no export of janus-batch; export into an empty folder")
        if dest.create(CLAIM_FILE, text.encode()):
            return
    theirs = json.loads(dest.read(CLAIM_FILE))
    for field, ours in claim.items():
        if theirs.get(field) != ours:
            shown = (theirs.get(field), ours) if field != "recipe" else ("another recipe", "its own")
            raise ExportError(
                f"{dest.url} is an export of {field} {shown[0]}, this one has {shown[1]}; export into another folder"
            )
