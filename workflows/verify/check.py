"""Check an output: its files against the manifest, the manifest against the job, and both against the prompts."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from actors.errors import one_line, shown
from actors.prompt.template import template_to_json
from actors.recipe import Recipe, adapters_to_json
from workflows.output.layouts import read_pack
from workflows.output.manifest import (
    JUDGE_SCHEMA,
    NUM_READERS,
    REJECTED_SCHEMA,
    committed_parts,
    kind_of_part,
    manifest_name,
    own_schema,
    parts_of_shards,
    read_rejected,
    rejected_file,
)
from workflows.output.parts import read_part
from workflows.plan import Plan, row_range, split_part_id
from workflows.storage.damage import DamagedFileError
from workflows.storage.store import DRAFT, Storage
from workflows.verify.verdicts import check_verdicts

SETTINGS = [
    "family",
    "weights_sha256",
    "vae_sha256",
    "prompt_format",
    "prompt_template",
    "protocol",
    "adapters",
    "dtype",
    "kv_cache",
    "sampler",
]  # the same in every row
COLUMNS = ["image_id", "prompt_id", "image_index", "cfg_weight", "image", "image_sha256", "latents", *SETTINGS]
_NO_IMAGE: dict[str, Any] = {"image_index": 0, "cfg_weight": 1.0, "latents": None}  # of a row that is an answer
Key = tuple[str, int, float]  # of an image: prompt id, image index, weight
JUDGE_COLUMNS = ["seed", "row_seed", *JUDGE_SCHEMA.names]


@dataclass(kw_only=True, slots=True)
class Findings:
    """The result of a check.

    * `num_images`, `num_rejected`: in the manifest; `num_missing`: images of prompts that are not rendered yet,
      None without a plan.
    * `faults`: what is wrong, one line each.
    * `at_fault`: shards whose own files are wrong: by id, the images that are missing, damaged or of other settings;
      None if a part of the shard's manifest is damaged.
    * `orphans`: files that no manifest part names, left by attempts that did not commit. They do no harm.
    """

    num_images: int = 0
    num_rejected: int = 0
    num_missing: int | None = 0
    faults: list[str] = field(default_factory=list)
    at_fault: dict[str, set[str] | None] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.faults and self.num_missing == 0


def verify_output(
    storage: Storage, plan: Plan | None, recipe: Recipe, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> Findings:
    """Check every manifest row against its file, every file against the rows, and the rows against the prompts.

    Without a plan, because the prompts are not there, the missing images are not counted.
    `on_shard` is called with the number of shards that are checked, and of all.
    """
    findings = Findings()
    shard_of: dict[Key, str] = {}
    repeated: dict[Key, list[str]] = {}
    parts = committed_parts(storage)
    names = set(storage.walk("images"))
    named: set[str] = set()
    with ThreadPoolExecutor(NUM_READERS) as readers:
        shards = parts_of_shards(parts)
        checked = readers.map(lambda parts: _check_shard(storage, parts, recipe), shards)
        for number, shard in enumerate(checked, 1):
            on_shard(number, len(shards))
            findings.num_images += shard.num_images
            findings.num_rejected += shard.num_rejected
            lost = {name: images for name, images in shard.latents.items() if name not in names}
            faults = shard.faults + [f"{name} is missing" for name in sorted(lost)]
            findings.faults += faults
            if faults:
                findings.at_fault[shard.shard_id] = (
                    None if shard.at_fault is None else shard.at_fault.union(*lost.values())
                )
            for key in shard.keys:
                if key in shard_of:
                    repeated.setdefault(key, [shard_of[key]]).append(shard.shard_id)
                shard_of.setdefault(key, shard.shard_id)
            named |= shard.files | set(shard.latents) | shard.rejected_files
    findings.faults += [_repeat_fault(key, shards) for key, shards in repeated.items()]
    findings.orphans = _find_orphans(storage, named, parts)
    findings.num_missing = None if plan is None else plan.num_images_remaining(recipe.images_per_row)
    return findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckedShard:
    """The result of checking one shard. `at_fault` is as in Findings, `keys` identify its images, and `files`,
    `latents` (with the images they belong to) and `rejected_files` are the files that its parts name."""

    shard_id: str
    num_images: int = 0
    num_rejected: int = 0
    faults: list[str]
    at_fault: set[str] | None
    keys: list[Key] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    latents: dict[str, set[str]] = field(default_factory=dict)
    rejected_files: set[str] = field(default_factory=set)


def _check_shard(storage: Storage, parts: list[str], recipe: Recipe) -> _CheckedShard:
    """Check the files, the settings and the counts of one committed shard, given its parts."""
    (shard_id, _), rejected_name = split_part_id(parts[0]), None
    try:
        rows = [row for part in parts for row in _read_part(storage, part)]
        rejected_name = rejected_file(storage, parts[-1])
    except DamagedFileError as error:
        return _CheckedShard(shard_id=shard_id, faults=[str(error)], at_fault=None)
    rows_of_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows if recipe.look is None else ():  # images that were looked at are the user's, not the output's
        rows_of_file[row["image"].partition("#")[0]].append(row)
    checked = [_check_file(storage, file, rows_in) for file, rows_in in rows_of_file.items()]
    checked.append(_check_settings(parts[0], rows, recipe))
    if recipe.judge is not None:
        checked.append(check_verdicts(parts[0], rows, recipe.judge))
    faults = [fault for found, _ in checked for fault in found]
    latents: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["latents"]:
            latents[row["latents"].partition("#")[0]].add(row["image_id"])
    rejected: list[dict[str, Any]] = []
    try:
        rejected = read_rejected(storage, rejected_name, REJECTED_SCHEMA.names).to_pylist() if rejected_name else []
        faults += _check_counts(parts[0], rows, rejected, recipe)
    except FileNotFoundError:
        faults.append(f"{rejected_name} is missing")
    except DamagedFileError as error:
        faults.append(str(error))
    return _CheckedShard(
        shard_id=shard_id,
        num_images=len(rows),
        num_rejected=sum(row["num_images"] for row in rejected),
        faults=faults,
        at_fault=set().union(*(images for _, images in checked)),
        keys=[(row["prompt_id"], row["image_index"], row["cfg_weight"]) for row in rows],
        files=set(rows_of_file),
        latents=latents,
        rejected_files={rejected_name} if rejected_name else set(),
    )


def _read_part(storage: Storage, part: str) -> list[dict[str, Any]]:
    """The rows of a part of the manifest. All columns are read, so that every page's checksum is checked."""
    table = read_part(storage, part)
    kind = kind_of_part(table.schema.metadata)
    own = own_schema(kind).names  # carried columns may have the names of a judge's
    rows: list[dict[str, Any]] = table.select([name for name in (*COLUMNS, *JUDGE_COLUMNS) if name in own]).to_pylist()
    return [_NO_IMAGE | row for row in rows] if kind == "answers" else rows


def _check_counts(
    shard_id: str, rows: list[dict[str, Any]], rejected: list[dict[str, Any]], recipe: Recipe
) -> list[str]:
    """Faults of the counts: each prompt row has all its images, rendered or rejected, or is rejected as a whole."""
    rejected_rows = [row for row in rejected if row["image_id"] is None]
    answers = Counter(row["prompt_id"] for row in [*rows, *(row for row in rejected if row["image_id"] is not None)])
    start, stop = row_range(shard_id)
    faults = []
    num_rows = len(answers) + len(rejected_rows)
    if num_rows != stop - start:
        faults.append(f"shard {shard_id} accounts for {num_rows} of {stop - start} prompt rows")
    for prompt_id, num_answers in answers.items():
        # A row with a weight of its own has images at this weight only.
        if num_answers not in (recipe.images_per_prompt, recipe.images_per_row):
            faults.append(f"prompt {shown(prompt_id)} has {num_answers} images of {recipe.images_per_row}")
    return faults


def _check_settings(shard_id: str, rows: list[dict[str, Any]], recipe: Recipe) -> tuple[list[str], set[str]]:
    """Faults of rows with other settings than job.json has, and their images: it was edited, or the part belongs to
    another output."""
    faults, images = [], set()
    as_json = {
        "prompt_template": template_to_json(recipe.prompt_template),
        "adapters": adapters_to_json(recipe.adapters),
    }
    for setting in [name for name in SETTINGS if not rows or name in rows[0]]:
        wanted = as_json[setting] if setting in as_json else getattr(recipe, setting)
        others = {row[setting] for row in rows} - {wanted}
        faults += [
            f"shard {shard_id} was rendered with {setting} {one_line(str(other))}, job.json has {wanted}"
            for other in others
        ]
        images |= {row["image_id"] for row in rows if row[setting] != wanted}
    return faults, images


def _check_file(storage: Storage, file: str, rows: list[dict[str, Any]]) -> tuple[list[str], set[str]]:
    """Faults of the images in one file, which is an image or a pack of images, and the images at fault."""
    all_images = {row["image_id"] for row in rows}
    try:
        is_pack = any("#" in row["image"] for row in rows)
        members = read_pack(storage, file) if is_pack else {"": storage.read(file)}
    except FileNotFoundError:
        return [f"{row['image']} is missing" for row in rows], all_images
    except DamagedFileError as error:
        return [str(error)], all_images
    faults = {}
    for row in rows:
        data = members.get(row["image"].partition("#")[2])
        if data is None:
            faults[row["image_id"]] = f"{row['image']} is missing"
        elif hashlib.sha256(data).hexdigest() != row["image_sha256"]:
            fault = f"{row['image']} is not the file that its manifest row describes: its SHA-256 differs"
            faults[row["image_id"]] = fault
    return list(faults.values()), set(faults)


def _repeat_fault(key: Key, shards: list[str]) -> str:
    """The fault of an image that these shards have; a shard that has it twice is named twice."""
    prompt_id, image_index, cfg_weight = key
    image = f"prompt {shown(prompt_id)}, image {image_index}, weight {cfg_weight:g}"
    names = list(dict.fromkeys(shards))
    where = " and ".join(names[:2]) + f" and {len(names) - 2:,} more" * (len(names) > 2)
    return f"{image} is in the manifest {len(shards)} times, in {where}"


def _find_orphans(storage: Storage, named: set[str], parts: Iterable[str]) -> list[str]:
    """Every file that no part names and that is not a part, and the drafts of processes that were killed."""
    committed = {manifest_name(part) for part in parts}
    below = [name for folder in ("images", "rejected", "manifest") for name in storage.walk(folder)]
    drafts = [name for name in storage.names("") if name.endswith(DRAFT) or name.startswith("_probe-")]
    return sorted({*below, *drafts} - named - committed)
