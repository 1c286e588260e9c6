"""The manifest: its columns, the names and the reading of its parts, and which files of rejected rows count.

A shard has one part, and one more for each retry of its rejected images. A part's metadata names the file of rejected
rows that was written with it. Other files in `rejected/` come from attempts that lost, or from parts before a retry:
only the file that a shard's last part names counts.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import shown
from actors.recipe import SAMPLING_SETTINGS, Recipe, SamplingSettings
from workflows.output.picture_statistics import STATISTICS_FIELDS
from workflows.plan import is_part_id, part_of_file, split_part_id
from workflows.storage import parquet
from workflows.storage.damage import DamagedFileError, damage_errors
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

NUM_READERS = 16  # threads that read parts, rejected rows or images

REJECTED_KEY = b"janus_batch.rejected"  # in a part's metadata: a name relative to OUTPUT, empty for none
ANSWERS_KEY = b"janus_batch.answers"  # in the metadata of a part with the columns of ANSWER_SCHEMA
JUDGED_KEY = b"janus_batch.judged"  # in the metadata of a part with the columns of JUDGE_SCHEMA
_REJECTED_NAME = re.compile(rb"rejected/[\w.-]+\.parquet")

# The type of the manifest's column for a sampling setting of each Python type. None is null.
ARROW_TYPES = {
    bool: pa.bool_(),
    int: pa.int32(),
    float: pa.float64(),
    str: pa.string(),
    tuple[float, float]: pa.list_(pa.float64()),
}
SETTINGS_FIELDS = [
    pa.field(name, ARROW_TYPES[next(kind for kind in (hint, *get_args(hint)) if kind in ARROW_TYPES)])
    for name, hint in get_type_hints(SamplingSettings).items()
]

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("image_index", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string()),
        pa.field("seed", pa.uint64(), nullable=False),
        pa.field("row_seed", pa.uint64()),
        pa.field("cfg_weight", pa.float64(), nullable=False),
        *SETTINGS_FIELDS,
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string()),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("vae", pa.string()),
        pa.field("vae_revision", pa.string()),
        pa.field("vae_sha256", pa.string()),
        pa.field("family", pa.string(), nullable=False),
        pa.field("prompt_format", pa.string()),
        pa.field("prompt_template", pa.string()),
        pa.field("protocol", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("adapters", pa.string()),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("kv_cache", pa.string()),
        pa.field("sampler", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        *STATISTICS_FIELDS,
        pa.field("codes", pa.list_(pa.int32())),
        pa.field("latents", pa.string()),
        pa.field("device", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# The columns that follow in a job with a `judge` section. A part that has them says so in its metadata (JUDGED_KEY), so
# that columns of these names in other parts are what they look like: columns carried from a prompt file.
JUDGE_SCHEMA = pa.schema(
    [
        pa.field("judge_score", pa.float32(), nullable=False),
        pa.field("judge_score_kind", pa.string(), nullable=False),
        pa.field("judge_caption", pa.string()),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("candidate_seeds", pa.list_(pa.uint64()), nullable=False),
        pa.field("candidate_scores", pa.list_(pa.float32()), nullable=False),
        pa.field("judge_question", pa.string(), nullable=False),
        pa.field("judge_model", pa.string(), nullable=False),
        pa.field("judge_model_revision", pa.string()),
        pa.field("judge_weights_sha256", pa.string(), nullable=False),
        pa.field("judge_prompt_format", pa.string()),
        pa.field("judge_family", pa.string(), nullable=False),
        pa.field("judge_is_own", pa.bool_(), nullable=False),
        pa.field("judge_looker", pa.string(), nullable=False),
    ]
)

# The columns of a job that looks at images of the user, in place of MANIFEST_SCHEMA. A part says so in its metadata.
ANSWER_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("score_kind", pa.string()),
        pa.field("image", pa.string()),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("max_tokens", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string()),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("prompt_format", pa.string()),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("sampler", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("num_images", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)


def settings_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings in a manifest row, as `SamplingSettings` holds them."""
    values = {name: row[name] for name in SAMPLING_SETTINGS}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


PartKind = Literal["images", "judged", "answers"]


def kind_of_part(metadata: Mapping[bytes, bytes] | None) -> PartKind:
    """What a part with this metadata has: images, images that were judged, or answers about images of the user."""
    if ANSWERS_KEY in (metadata or {}):
        return "answers"
    return "judged" if JUDGED_KEY in (metadata or {}) else "images"


def kind_of_recipe(recipe: Recipe) -> PartKind:
    """The kind of the parts that a recipe makes."""
    if recipe.look is not None:
        return "answers"
    return "images" if recipe.judge is None else "judged"


def marks_of(kind: PartKind) -> dict[bytes, str]:
    """What the metadata of a part of this kind has for `kind_of_part`."""
    marks: dict[PartKind, dict[bytes, str]] = {"judged": {JUDGED_KEY: "yes"}, "answers": {ANSWERS_KEY: "yes"}}
    return marks.get(kind, {})


def own_schema(kind: PartKind) -> pa.Schema:
    """The manifest's own columns, without the carried ones."""
    if kind == "answers":
        return ANSWER_SCHEMA
    return MANIFEST_SCHEMA if kind == "images" else pa.unify_schemas([MANIFEST_SCHEMA, JUDGE_SCHEMA])


def carried_names(names: Sequence[str], kind: PartKind) -> dict[str, str]:
    """The manifest's names of carried columns. A name of the manifest's own columns gets the prefix `source_`, more
    than once if need be; every other name stays as it is.
    """
    own = own_schema(kind).names
    chosen, taken = {}, {*own, *names}
    for name in names:
        free_name = name
        while free_name in taken and (free_name != name or name in own):
            free_name = f"source_{free_name}"
        chosen[name] = free_name
        taken.add(free_name)
    return chosen


def committed_types(storage: Storage, parts: Sequence[str], names: Sequence[str]) -> pa.Schema:
    """The types that an output has for carried columns, by their names in the prompt files.

    All parts of an output agree on a type, but a column may be younger than the first of them. The parts are read
    until each column has a type; `verify` names those that are damaged.
    """
    types: dict[str, pa.DataType] = {}
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for first in range(0, len(parts), NUM_READERS):
            some = parts[first : first + NUM_READERS]
            for schema in readers.map(lambda part: _types_in(storage, part, names), some):
                types = {field.name: field.type for field in schema} | types
            if len(types) == len(names):
                break
    return pa.schema(list(types.items()))


def _types_in(storage: Storage, part: str, names: Sequence[str]) -> pa.Schema:
    """The types that a part has for carried columns; none if it is damaged."""
    with contextlib.suppress(DamagedFileError):
        return _read_types(storage, part, names)
    return pa.schema([])


def _read_types(storage: Storage, part: str, names: Sequence[str]) -> pa.Schema:
    footer = read_footer(storage, manifest_name(part))
    chosen = carried_names(names, kind_of_part(footer.metadata))
    with part_errors(storage, manifest_name(part)):
        schema = footer.schema.to_arrow_schema()
        parquet.check_names(schema, [name for name in chosen.values() if name in schema.names])
    return pa.schema([(name, schema.field(chosen[name]).type) for name in names if chosen[name] in schema.names])


def committed_parts(storage: Storage) -> list[str]:
    """The ids of the committed parts of shards and of their retries, from one listing. Files of others are no parts."""
    ids = [name.removesuffix(".parquet") for name in storage.names("manifest") if name.endswith(".parquet")]
    return [part for part in ids if is_part_id(part)]


def rejected_files(storage: Storage, parts: Iterable[str]) -> dict[str, str]:
    """The file of rejected rows that counts, by shard id; shards without rejected rows are left out."""
    listed = {f"rejected/{name}" for name in storage.names("rejected")}
    with_files = {split_part_id(part)[0] for part in map(part_of_file, listed) if part}
    last = {shard_id: part for shard_id, part in last_parts(parts).items() if shard_id in with_files}
    with ThreadPoolExecutor(NUM_READERS) as readers:
        named = readers.map(lambda part: rejected_file(storage, part), last.values())
        return {shard_id: name for shard_id, name in zip(last, named, strict=True) if name in listed}


def rejected_file(storage: Storage, part: str) -> str | None:
    """The name of the file of rejected rows that was committed with a part, None if there is none.

    Raises FileNotFoundError, and DamagedFileError also for a name that no run writes: it could lead out of the output.
    """
    metadata = read_footer(storage, manifest_name(part)).metadata or {}
    name = metadata.get(REJECTED_KEY, b"")
    if name and not _REJECTED_NAME.fullmatch(name):
        with part_errors(storage, manifest_name(part)):
            raise pa.ArrowInvalid(
                f"its metadata `{REJECTED_KEY.decode()}` must name a file in rejected/, got {shown(name)}"
            )
    return name.decode() or None


def remove_superseded(storage: Storage) -> None:
    """Remove files of rejected rows that a later, committed retry of their shard replaces."""
    parts = committed_parts(storage)
    last = set(last_parts(parts).values())
    for name in storage.names("rejected"):
        part = part_of_file(f"rejected/{name}")
        if part in parts and part not in last:
            storage.remove(f"rejected/{name}")


def last_parts(parts: Iterable[str]) -> dict[str, str]:
    """Each shard's last part, by shard id."""
    last: dict[str, str] = {}
    for part in sorted(parts, key=lambda part: split_part_id(part)[1]):
        last[split_part_id(part)[0]] = part
    return last


def parts_of_shards(parts: Iterable[str]) -> list[list[str]]:
    """The parts of each shard: its own first, then its retries in order."""
    of_shard: dict[str, list[str]] = defaultdict(list)
    for part in sorted(parts, key=split_part_id):
        of_shard[split_part_id(part)[0]].append(part)
    return list(of_shard.values())


def manifest_name(part: str) -> str:
    return f"manifest/{part}.parquet"


def count_rows(storage: Storage, part: str) -> int:
    """The images in a part of the manifest, from its footer."""
    return int(read_footer(storage, manifest_name(part)).num_rows)


def read_footer(storage: Storage, name: str) -> pq.FileMetaData:
    with part_errors(storage, name), storage.open(name) as file:
        return parquet.read_footer(file)


def read_table(storage: Storage, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a part or a file of rejected rows, and check each page. Raises FileNotFoundError or DamagedFileError."""
    data = storage.read(name)
    with part_errors(storage, name):
        return parquet.read_parquet(data, columns)


def read_rejected(storage: Storage, name: str, columns: Sequence[str]) -> pa.Table:
    """These columns of a file of rejected rows, in their types. Raises FileNotFoundError or DamagedFileError."""
    table = read_table(storage, name, list(columns))
    with part_errors(storage, name):
        return pa.table(
            [parquet.typed_column(table, REJECTED_SCHEMA.field(column)) for column in columns], names=columns
        )


def part_errors(storage: Storage, name: str) -> contextlib.AbstractContextManager[None]:
    """Turn decoding errors of a part or a file of rejected rows into a DamagedFileError that says how to repair it."""
    repair = f"janus-batch verify {output_arguments(storage.url, storage.options)} --repair"
    remedy = f"; `{repair}` takes such shards back, and the next run re-renders them"
    return damage_errors(f"{storage.url}/{name}", remedy)
