"""Is an output what its manifest says, and is it all that was asked for? Reads files and hashes; renders nothing."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from actors.recipe import Recipe
from workflows.output.layouts import read_pack
from workflows.output.manifest import (
    NUM_READERS,
    committed_parts,
    manifest_name,
    part_errors,
    parts_of_shards,
    read_table,
    rejected_file,
)
from workflows.plan import Plan, row_range, split_part_id
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import Storage

SETTINGS = ["family", "weights_sha256", "vae_sha256", "prompt_format", "dtype", "sampler"]  # what a job has one of
COLUMNS = ["image_id", "prompt_id", "image_index", "cfg_weight", "image", "image_sha256", "latents", *SETTINGS]


@dataclass(kw_only=True, slots=True)
class Findings:
    """What was checked and what is wrong: `faults` make an output unfit, `orphans` are files that no part names.

    `shards_at_fault` are the ids of the shards whose own files are at fault.
    """

    num_images: int = 0
    num_rejected: int = 0
    num_missing: int = 0
    faults: list[str] = field(default_factory=list)
    shards_at_fault: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.faults and not self.num_missing


def verify_output(storage: Storage, plan: Plan, recipe: Recipe) -> Findings:
    """Check every manifest row against its file, every file against the rows, and the rows against the prompts."""
    findings, keys = Findings(), Counter[tuple[str, int, float]]()
    parts = committed_parts(storage)
    names = set(storage.walk("images"))
    named: set[str] = set()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for part in readers.map(lambda parts: _check_shard(storage, parts, recipe), parts_of_shards(parts)):
            findings.num_images += part.num_images
            findings.num_rejected += part.num_rejected
            faults = part.faults + [f"{name} is missing" for name in sorted(part.latents - names)]
            findings.faults += faults
            findings.shards_at_fault += [part.shard_id] if faults else []
            keys.update(part.keys)
            named |= part.files | part.latents | part.rejected_files
    findings.faults += [_twice(key, count) for key, count in keys.items() if count > 1]
    findings.orphans = _find_orphans(storage, named, parts)
    findings.num_missing = plan.num_rows_remaining * recipe.images_per_row
    return findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    """What one shard's check found."""

    shard_id: str
    num_images: int = 0
    num_rejected: int = 0
    faults: list[str]
    keys: list[tuple[str, int, float]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    latents: set[str] = field(default_factory=set)
    rejected_files: set[str] = field(default_factory=set)


def _check_shard(storage: Storage, parts: list[str], recipe: Recipe) -> _Checked:
    """Check the files and the arithmetic of one committed shard, given its parts."""
    (shard_id, _), rejected_name = split_part_id(parts[0]), None
    try:
        rows = [row for part in parts for row in _read_part(storage, part)]
        rejected_name = rejected_file(storage, parts[-1])
    except DamagedFileError as error:
        return _Checked(shard_id=shard_id, faults=[str(error)])
    places: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        places[row["image"].partition("#")[0]].append(row)
    faults = [fault for file, inside in places.items() for fault in _check_file(storage, file, inside)]
    faults += _check_settings(parts[0], rows, recipe)
    rejected: list[dict[str, Any]] = []
    try:
        rejected = read_table(storage, rejected_name).to_pylist() if rejected_name else []
        faults += _check_counts(parts[0], rows, rejected, recipe)
    except FileNotFoundError:
        faults.append(f"{rejected_name} is missing")
    except DamagedFileError as error:
        faults.append(str(error))
    return _Checked(
        shard_id=shard_id,
        num_images=len(rows),
        num_rejected=sum(row["num_images"] for row in rejected),
        faults=faults,
        keys=[(row["prompt_id"], row["image_index"], row["cfg_weight"]) for row in rows],
        files=set(places),
        latents={row["latents"].partition("#")[0] for row in rows if row["latents"]},
        rejected_files={rejected_name} if rejected_name else set(),
    )


def _read_part(storage: Storage, part: str) -> list[dict[str, Any]]:
    """The rows of a part of the manifest. It is read whole, since each page has its checksum."""
    name = manifest_name(part)
    table = read_table(storage, name)
    with part_errors(storage, name):
        if missing := set(COLUMNS).difference(table.column_names):
            raise pa.ArrowInvalid(f"it has no column {min(missing)}")
        rows: list[dict[str, Any]] = table.select(COLUMNS).to_pylist()
        return rows


def _check_counts(
    shard_id: str, rows: list[dict[str, Any]], rejected: list[dict[str, Any]], recipe: Recipe
) -> list[str]:
    """Faults of the arithmetic: each prompt row has all its images, made or rejected, or is rejected as a whole."""
    whole_rows = [row for row in rejected if row["image_id"] is None]
    answers = Counter(row["prompt_id"] for row in [*rows, *(row for row in rejected if row["image_id"] is not None)])
    start, stop = row_range(shard_id)
    faults = []
    if len(answers) + len(whole_rows) != stop - start:
        faults.append(f"shard {shard_id} accounts for {len(answers) + len(whole_rows)} of {stop - start} prompt rows")
    for prompt_id, num_answers in answers.items():
        # A row with a weight of its own is not swept.
        if num_answers not in (recipe.images_per_prompt, recipe.images_per_row):
            faults.append(f"prompt {prompt_id!r} has {num_answers} images of {recipe.images_per_row}")
    return faults


def _check_settings(shard_id: str, rows: list[dict[str, Any]], recipe: Recipe) -> list[str]:
    """Faults of rows made with other settings than the output's: an edited job.json, a part from elsewhere."""
    faults = []
    for setting in SETTINGS:
        wanted = getattr(recipe, setting)
        others = {row[setting] for row in rows} - {wanted}
        faults += [f"shard {shard_id} was made with {setting} {other}, the output is of {wanted}" for other in others]
    return faults


def _check_file(storage: Storage, file: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Faults of the images in one file (a picture of its own, or a pack of many)."""
    try:
        is_pack = any("#" in row["image"] for row in rows)
        members = read_pack(storage, file) if is_pack else {"": storage.read(file)}
    except FileNotFoundError:
        return [f"{row['image']} is missing" for row in rows]
    except DamagedFileError as error:
        return [str(error)]
    faults = []
    for row in rows:
        data = members.get(row["image"].partition("#")[2])
        if data is None:
            faults.append(f"{row['image']} is missing")
        elif hashlib.sha256(data).hexdigest() != row["image_sha256"]:
            faults.append(f"{row['image']} is not the file its manifest row describes: its SHA-256 differs")
    return faults


def _twice(key: tuple[str, int, float], count: int) -> str:
    prompt_id, image_index, cfg_weight = key
    return f"prompt {prompt_id!r}, image {image_index}, weight {cfg_weight:g} stands in the manifest {count} times"


def _find_orphans(storage: Storage, named: set[str], parts: Iterable[str]) -> list[str]:
    """Every file that no part names and that is not a part, and the drafts of processes that were killed."""
    committed = {manifest_name(part) for part in parts}
    below = [name for folder in ("images", "rejected", "manifest") for name in storage.walk(folder)]
    drafts = [name for name in storage.names("") if name.endswith(".draft") or name.startswith("_probe-")]
    return sorted({*below, *drafts} - named - committed)
