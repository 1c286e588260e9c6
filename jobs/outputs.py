"""Finding one's way in an output that exists: its storage, and what its job.json claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.recipe import Recipe
from jobs.job_file.resolve import settled
from workflows.output.claim import read_claim, recipe_of
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """job.json, read: the parts of the job that later commands need."""

    name: str
    prompts: str
    recipe: Recipe
    shard_rows: int
    fields: dict[str, Any]


def open_output(output: str, endpoint_url: str | None) -> tuple[Storage, Claim]:
    """The storage and the claim of an output folder. Raises StorageError if it is none."""
    address = {"endpoint_url": endpoint_url} if endpoint_url else {}
    with storage_errors(output):
        first = Storage(settled(output), address, is_first_contact=True)
        fields = read_claim(first)
        recipe = recipe_of(first, fields)
    storage = Storage(settled(output), fields["job_file"].get("storage", {}) | address)
    claim = Claim(
        name=fields["name"],
        prompts=fields["prompts"],
        recipe=recipe,
        shard_rows=fields["shard_rows"],
        fields=fields,
    )
    return storage, claim
