"""The parts that hold scores: `OUTPUT/scores/<scorer>/<part>.parquet`, one for each part of the manifest.

A part has `image_id` and `image_sha256` in the order of the manifest's rows, then the scorer's columns. Its metadata
names the scorer with all that decides its scores, and so does `_scorer.json` in the folder. A folder holds the scores
of one such scorer. Each part is created once and no score in it changes, so a score is committed exactly once. A score
belongs to the bytes of its image: a row whose `image_sha256` is not the manifest's does not count.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from actors.errors import InputError, shown
from workflows.output.layouts import parquet_bytes
from workflows.output.manifest import manifest_name, own_schema, read_footer
from workflows.storage.damage import DamagedFileError, damage_errors
from workflows.storage.lease import hold_output
from workflows.storage.parquet import check_names, open_parquet, typed_column
from workflows.storage.store import Storage

SCORER_KEY = b"janus_batch.scorer"  # in a part's metadata: the scorer as JSON
# Readers of data folders skip names that begin with an underscore.
SCORER_FILE = "_scorer.json"
COLUMNS_PREFIX = "_column"  # of the names of the files of workflows.scores.columns
KEY_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("image_sha256", pa.string(), nullable=False)]
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # a name in expressions without quotes, and a folder everywhere
_TAKEN = frozenset(own_schema("judged").names)  # what the rows of an export have next to the scores


class ScoresError(InputError):
    """A scorer's name or columns are wrong, or its folder holds the scores of another scorer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """What decides the scores of an image.

    * `name`: the folder, and the name of its scores in expressions. `version`: changes when equal settings would give
      other scores.
    * `checkpoint`, `revision`, `weights_sha256`: its model as the user named it, the commit, and the hash of the
      weights; None for a scorer without a model.
    * `settings`: everything else, as JSON has it: the question, the source file and hash of a user's function.
    """

    name: str
    version: str
    checkpoint: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


_SCORER: TypeAdapter[Scorer] = TypeAdapter(Scorer)


def check_scorer_name(name: str) -> None:
    """Raise ScoresError for a name that is no plain word, or is that of a column of the manifest."""
    if not _NAME.fullmatch(name):
        raise ScoresError(
            f"a scorer's name has lower-case letters, digits and _, and begins with a letter; got {shown(name)}"
        )
    if name in _TAKEN:
        raise ScoresError(f"{name} is a column of the manifest; give the scores another name with --name")


def hold_scores(
    storage: Storage, name: str, *, say: Callable[[str], None] = lambda line: None, retry_seconds: float = 0.0
) -> AbstractContextManager[bool]:
    """Hold the folder of a scorer's name while the block runs. Raises ScoresError, and OutputInUseError."""
    check_scorer_name(name)
    return hold_output(
        Storage(f"{storage.url}/scores/{name}", storage.options),
        f"score {name}",
        say=say,
        retry_seconds=retry_seconds,
        work="written",
        advice="wait until it ends, or give the scores another name with --name",
    )


def claim_scores(storage: Storage, scorer: Scorer) -> None:
    """Claim the folder of this scorer's name, which a run holds. A claim without any part is replaced.

    The parts decide whose folder it is, whether or not its claim is there. Raises ScoresError if they are of a scorer
    with other settings, naming the first one that differs.
    """
    check_scorer_name(scorer.name)
    folder = f"scores/{scorer.name}"
    theirs = claimed_scorer(storage, scorer.name)
    if theirs is None:
        for name in storage.names(folder):
            if name.startswith(COLUMNS_PREFIX):
                storage.remove(f"{folder}/{name}")
        storage.write(f"{folder}/{SCORER_FILE}", _to_json(scorer))
        return
    for field, old, new in _differences(theirs, scorer):
        raise ScoresError(
            f"{storage.url}/{folder} holds scores with {field} = {shown(old)}, these have {shown(new)}; give the "
            "scores another name with --name"
        )
    storage.create(f"{folder}/{SCORER_FILE}", _to_json(scorer))


def claimed_scorer(storage: Storage, name: str) -> Scorer | None:
    """The scorer whose scores a folder holds; None for a folder without any."""
    parts = scored_parts(storage, name)
    return read_scorer(storage, name, parts[0]) if parts else None


def _differences(one: Scorer, other: Scorer) -> Iterator[tuple[str, Any, Any]]:
    """The fields and settings that differ, with both values."""
    olds, news = dataclasses.asdict(one), dataclasses.asdict(other)
    old_settings, new_settings = olds.pop("settings"), news.pop("settings")
    yield from ((field, old, news[field]) for field, old in olds.items() if old != news[field])
    for key in old_settings | new_settings:
        old, new = old_settings.get(key), new_settings.get(key)
        if old != new:
            yield f"the setting {key}", old, new


def scorer_names(storage: Storage) -> list[str]:
    """The scorers that have scored images of an output, from one listing."""
    parts = [name.split("/") for name in storage.walk("scores") if name.count("/") == 2 and name.endswith(".parquet")]
    return sorted({name for _, name, _ in parts if _NAME.fullmatch(name)})


def scored_parts(storage: Storage, name: str) -> list[str]:
    """The ids of the manifest's parts whose images this scorer has scored, from one listing."""
    names = storage.names(f"scores/{name}")
    return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]


def take_back(storage: Storage, parts: Sequence[str]) -> None:
    """Remove all parts of a shard and their scores, so that the next run renders it and the next scorer looks again.

    Retries go before the shard's own part, because they hold only images that the part before them rejected.
    """
    for part in reversed(parts):
        for name in scorer_names(storage):
            storage.remove(scores_file(name, part))
        storage.remove(manifest_name(part))


def write_scores(storage: Storage, scorer: Scorer, part: str, table: pa.Table) -> bool:
    """Commit the scores of a part of the manifest. True if this attempt is the first one, or wrote the same bytes.

    `table` has `image_id`, `image_sha256` and at least one column of numbers, text, booleans or vectors. NaN
    becomes null, which is no score: it would compare greater than every number.
    """
    columns = [field.name for field in table.schema if field.name not in KEY_SCHEMA.names]
    if not columns:
        raise ScoresError(f"scorer {scorer.name} must give at least one column of scores, got none")
    typed = [typed_column(table, field) for field in KEY_SCHEMA]
    typed += [_score_column(scorer.name, table, name) for name in columns]
    scores = pa.table(typed, names=[*KEY_SCHEMA.names, *columns])
    scores = scores.replace_schema_metadata({SCORER_KEY: _to_json(scorer).strip()})
    return storage.create(scores_file(scorer.name, part), parquet_bytes(scores))


def replace_scores(storage: Storage, name: str, part: str, table: pa.Table) -> None:
    """Write the scores of a part again, as `read_scores` gave them but with columns of other types."""
    storage.write(scores_file(name, part), parquet_bytes(table))


def read_scorer(storage: Storage, name: str, part: str) -> Scorer:
    """The scorer of a part, from its footer. Raises FileNotFoundError or DamagedFileError."""
    return scorer_of(read_scores_schema(storage, name, part), f"{storage.url}/{scores_file(name, part)}")


def read_scores_schema(storage: Storage, name: str, part: str) -> pa.Schema:
    """The columns and the metadata of a part, from its footer. Raises FileNotFoundError or DamagedFileError."""
    file = scores_file(name, part)
    with _damage_errors(storage, file):
        return read_footer(storage, file).schema.to_arrow_schema()


def scorer_of(schema: pa.Schema, where: str) -> Scorer:
    """The scorer that a part's schema names. Raises DamagedFileError, naming the file by `where`."""
    return _from_json((schema.metadata or {}).get(SCORER_KEY, b""), where)


def read_scores(storage: Storage, name: str, part: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The scores of a part: its keys, and all columns or those named. `scorer_of` reads its schema.

    Join it with `scores_of_rows`, which knows what counts. Raises FileNotFoundError or DamagedFileError.
    """
    file = scores_file(name, part)
    data = storage.read(file)
    with _damage_errors(storage, file):
        parquet = open_parquet(data)
        names = [field.name for field in parquet.schema_arrow if field.name not in KEY_SCHEMA.names]
        wanted = names if columns is None else list(columns)
        check_names(parquet.schema_arrow, [*KEY_SCHEMA.names, *wanted])
        table = parquet.read([*KEY_SCHEMA.names, *wanted])
        keys = [typed_column(table, field) for field in KEY_SCHEMA]
        scores = pa.table([*keys, *(table[name] for name in wanted)], names=[*KEY_SCHEMA.names, *wanted])
        return scores.replace_schema_metadata(parquet.schema_arrow.metadata)


def scores_of_rows(rows: pa.Table, scores: pa.Table) -> pa.Table:
    """The score columns in the order of the manifest's `rows` (`image_id`, `image_sha256`); null where an image of
    these bytes has no score."""
    return scores.drop_columns(KEY_SCHEMA.names).take(positions_of_rows(rows, scores))


def positions_of_rows(rows: pa.Table, scores: pa.Table) -> pa.Int64Array:
    """For each of the manifest's `rows`, the position of its image and bytes in `scores`; null if it has no score."""
    position_of = {key: position for position, key in enumerate(_keys(scores))}
    return pa.array([position_of.get(key) for key in _keys(rows)], pa.int64())


def scores_file(name: str, part: str) -> str:
    """The file of a scorer's scores of a part of the manifest, relative to OUTPUT."""
    return f"scores/{name}/{part}.parquet"


def is_value(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a score that rules can compare: numbers, text or booleans."""
    return any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, _is_text))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _score_column(scorer: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table[name]
    is_vector = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if not is_value(column.type) and not (is_vector and pa.types.is_floating(column.type.value_type)):
        raise ScoresError(
            f"scorer {scorer}: column `{name}` must hold numbers, text, booleans or vectors, got {column.type}"
        )
    if not pa.types.is_floating(column.type):
        return column
    wide = column.cast(pa.float64()) if pa.types.is_float16(column.type) else column
    return pc.if_else(pc.is_nan(wide), pa.scalar(None, column.type), column)


def _keys(table: pa.Table) -> Iterable[tuple[str, str]]:
    return zip(*(table[name].to_pylist() for name in KEY_SCHEMA.names), strict=True)


def _to_json(scorer: Scorer) -> bytes:
    return _SCORER.dump_json(scorer) + b"\n"


def _from_json(data: bytes, where: str) -> Scorer:
    try:
        return _SCORER.validate_json(data)
    except ValidationError as error:
        fault = error.errors()[0]
        raise DamagedFileError(
            f"{where} is damaged: the scorer's {'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg']}"
        ) from error


def _damage_errors(storage: Storage, file: str) -> AbstractContextManager[None]:
    return damage_errors(f"{storage.url}/{file}", "; remove the file, and `janus-batch score` scores its images again")
