"""The columns of prompt files: those that a job reads, and one type for each of those that it carries."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import one_line
from workflows.prompt_files.column_types import (
    Extent,
    TypeConflictError,
    common_type,
    is_list,
    is_lossless,
    is_text,
    plain_type,
)
from workflows.prompt_files.file import PromptsError
from workflows.prompt_files.formats import CSV, format_of

MAX_COLUMNS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns of one prompt file, in plain types. `extents` has the 64-bit columns with statistics."""

    url: str
    schema: pa.Schema
    extents: dict[str, Extent]


def _is_text(kind: pa.DataType) -> bool:
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


NUMBERS = (ANY_NUMBERS, WHOLE_NUMBERS) = ("numbers", "whole numbers")

# The columns that a job reads: a check of the Arrow type, and the allowed types in words.
COLUMN_TYPES = {
    "prompt": (_is_text, "text"),
    "id": (lambda kind: _is_text(kind) or pa.types.is_integer(kind), "text or whole numbers"),
    "negative_prompt": (_is_text, "text"),
    "seed": (_is_number, WHOLE_NUMBERS),
    "image_seed": (_is_number, WHOLE_NUMBERS),
    "cfg_weight": (_is_number, ANY_NUMBERS),
    "temperature": (_is_number, ANY_NUMBERS),
    "num_inference_steps": (_is_number, WHOLE_NUMBERS),
}
TEXT_COLUMNS = ("prompt", "negative_prompt", "id")


def _is_image(kind: pa.DataType) -> bool:
    """Text, bytes, or the struct that Hugging Face `datasets` writes."""
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {field.name for field in kind}
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


# The same of a job that looks at images.
LOOK_COLUMN_TYPES = {
    "image": (_is_image, "locations of images (text), their bytes, or structs of bytes and path"),
    "question": (_is_text, "text"),
    "id": COLUMN_TYPES["id"],
}
LOOK_TEXT_COLUMNS = ("image", "question", "id")


def column_types(*, reads_images: bool) -> Mapping[str, tuple[Callable[[pa.DataType], bool], str]]:
    """The columns that a job reads, which renders prompts or looks at images."""
    return LOOK_COLUMN_TYPES if reads_images else COLUMN_TYPES


def check_names(url: str, schema: pa.Schema) -> None:
    """Raise PromptsError if there are too many names, or one occurs twice."""
    if len(schema) > MAX_COLUMNS:
        raise too_many_columns(url, len(schema))
    for name, count in Counter(schema.names).items():
        if count > 1:
            raise PromptsError(f"prompts: {url} has {count} columns `{one_line(name)}`; names must be unique")


def too_many_columns(url: str, number: int) -> PromptsError:
    return PromptsError(f"prompts: {url} has {number:,} columns; a prompt file may have {MAX_COLUMNS:,}")


# Names of a column of prompts, the likeliest first. A name that contains the last two is likely, too.
LIKELY_NAMES = ("caption", "text", "prompts", "prompt_en", "captions", "description", "instruction", "title")
LIKELY_PARTS = ("prompt", "caption")

_PLAIN_YAML = re.compile(r"[^\W\d]([\w .,'()/=-]*[\w.')])?")  # text without quotes
# Not text, to one version of YAML or another.
_YAML_WORDS = ("true", "false", "yes", "no", "on", "off", "y", "n", "null")


def check_columns(url: str, schema: pa.Schema, ignored_columns: Iterable[str], *, reads_images: bool = False) -> None:
    """Raise PromptsError unless `prompt` (or `image`) exists and every column read has an allowed type."""
    names = one_line(", ".join(schema.names))
    if reads_images and "image" not in schema.names:
        raise PromptsError(
            f"prompts: {url} has no column `image`; its columns are {names}. `columns.image` names the one to look at"
        )
    if not reads_images and "prompt" not in schema.names:
        raise PromptsError(f"prompts: {url} has no column `prompt`; its columns are {names}{_advice(url, schema)}")
    for name, (is_allowed, allowed) in column_types(reads_images=reads_images).items():
        if name not in schema.names or name in ignored_columns:
            continue
        kind = schema.field(name).type
        # A column that holds only nulls has Arrow's null type; every row then uses the job's value.
        if not is_allowed(kind) and not pa.types.is_null(kind):
            raise PromptsError(
                f"prompts: column `{name}` of {url} must hold {allowed}, it holds {one_line(str(kind))}{way_out(name)}"
            )


def way_out(name: str) -> str:
    """What to do about a column that only happens to have the name of one that the job reads."""
    return "" if name not in COLUMN_TYPES or name == "prompt" else f"; if it means something else: columns.{name}: null"


def _advice(url: str, schema: pa.Schema) -> str:
    likely = likely_prompts(schema)
    if likely is None:
        return ""
    if format_of(url).name == CSV and len(schema) == 1 and not sounds_like_prompts(likely):
        return "; if that is the first prompt, set csv.header=false"
    return f"; did you mean `--set {setting('prompt_column', likely)}`?"


def setting(key: str, value: str) -> str:
    """KEY=VALUE as a shell takes it. A text that YAML would read as something else, such as `123`, is in quotes."""
    is_plain = _PLAIN_YAML.fullmatch(value) and value.lower() not in _YAML_WORDS
    return shlex.quote(f"{key}={one_line(value if is_plain else json.dumps(value, ensure_ascii=False))}")


def sounds_like_prompts(name: str) -> bool:
    return name.lower() in ("prompt", *LIKELY_NAMES) or any(part in name.lower() for part in LIKELY_PARTS)


def likely_prompts(schema: pa.Schema) -> str | None:
    """The column of text that most likely holds prompts, by its name or because it is the only one."""
    texts = [field.name for field in schema if _is_text(field.type) and field.name not in ("id", "negative_prompt")]
    by_name = {name.lower(): name for name in reversed(texts)}
    exact = [by_name[name] for name in ("prompt", *LIKELY_NAMES) if name in by_name]
    alike = [name for name in texts if sounds_like_prompts(name)]
    return next(iter([*exact, *alike]), texts[0] if len(texts) == 1 else None)


def job_names(names: Sequence[str], renamed: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The job's name of each column -> its name in the file. `renamed`: pairs of a name in the file and the job's.

    A column of the file whose name the job gives to another one is left out.
    """
    new_names = dict(renamed)
    taken = set(new_names.values())
    return {new_names.get(name, name): name for name in names if name in new_names or name not in taken}


def hive_type(name: str, values: Iterable[str | None]) -> pa.DataType:
    """The type of a column that the names of folders set: whole numbers if every value is one, else text.

    A column that the job reads as numbers may have fractions. A carried one may not: 1.10 would become 1.1.
    """
    found = [value for value in values if value is not None]
    if name in TEXT_COLUMNS:
        return pa.string()
    if all(re.fullmatch(r"-?[0-9]{1,18}", value) for value in found):
        return pa.int64()
    is_read = name in COLUMN_TYPES and all(re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", value) for value in found)
    return pa.float64() if is_read else pa.string()


def plain_columns(url: str, schema: pa.Schema, extents: dict[str, Extent], *, reads_images: bool = False) -> Columns:
    """The carried columns of a file. Raises PromptsError for a type that no manifest can hold."""
    fields = []
    for field in schema:
        if field.name not in column_types(reads_images=reads_images):
            try:
                fields.append(pa.field(field.name, plain_type(field.type)))
            except TypeConflictError as error:
                raise PromptsError(
                    f"prompts: column `{one_line(field.name)}` of {url} cannot be carried: {error}"
                ) from error
    return Columns(url=url, schema=pa.schema(fields), extents=extents)


def carried_columns(files: Sequence[Columns]) -> pa.Schema:
    """Every column of any file with the one type that holds all values. Raises PromptsError where there is none."""
    fields: dict[str, pa.Field] = {}
    source: dict[str, Columns] = {}  # the file that the type of a column comes from
    for file in files:
        for field in file.schema:
            known = fields.get(field.name, field)
            kind = known.type
            if kind != field.type:
                kind = _common_type(field.name, source[field.name], kind, file, field.type)
            if field.name not in fields or kind != known.type:
                fields[field.name], source[field.name] = pa.field(field.name, kind), file
    schema = pa.schema(list(fields.values()))
    _check_losses(files, schema, source)
    return pa.schema([_storable(field, source[field.name].url) for field in schema])


def carried_like(carried: pa.Schema, committed: pa.Schema, output: str) -> pa.Schema:
    """The carried columns with the types that an output already has. Raises PromptsError if one cannot hold them."""
    fields = []
    for field in carried:
        kind = committed.field(field.name).type if field.name in committed.names else field.type
        if not is_lossless(field.type, kind):
            raise PromptsError(
                f"prompts: column {_shown(field.name, field.type)}, and the images in {output} carry it as "
                f"{one_line(str(kind))}, which cannot hold every value; write the column with that type, or render "
                "into another output folder"
            )
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _common_type(name: str, one: Columns, kind: pa.DataType, other: Columns, other_kind: pa.DataType) -> pa.DataType:
    try:
        return common_type(kind, other_kind)
    except TypeConflictError as error:
        if _are_csv(one, other) and all(map(_is_written_back, (kind, other_kind))):
            return pa.string()
        raise _conflict(name, one.url, kind, other.url, other_kind) from error


def _check_losses(files: Sequence[Columns], schema: pa.Schema, source: dict[str, Columns]) -> None:
    for file in files:
        for field in file.schema:
            target = schema.field(field.name).type
            if is_lossless(field.type, target, file.extents.get(field.name)):
                continue
            if _are_csv(file, source[field.name]) and pa.types.is_string(target) and _is_written_back(field.type):
                continue
            other = next(
                other
                for other in (source[field.name], *files)
                if field.name in other.schema.names and other.schema.field(field.name).type != field.type
            )
            raise _conflict(field.name, file.url, field.type, other.url, other.schema.field(field.name).type)


def _are_csv(*files: Columns) -> bool:
    return all(format_of(file.url).name == CSV for file in files)


def _is_written_back(kind: pa.DataType) -> bool:
    """Whether the values of a CSV column become the text of their fields again: fractions may have had more zeros."""
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind))


def _conflict(name: str, url: str, kind: pa.DataType, other_url: str, other_kind: pa.DataType) -> PromptsError:
    return PromptsError(
        f"prompts: column {_shown(name, kind)} in {url} and {one_line(str(other_kind))} in {other_url}, and no type "
        "holds both without loss; a carried column has one type in all files"
    )


def _shown(name: str, kind: pa.DataType) -> str:
    return f"`{one_line(name)}` holds {one_line(str(kind))}"


def _storable(field: pa.Field, url: str) -> pa.Field:
    """The field as a Parquet file gives it back. Columns and lists without any value become text."""
    field = pa.field(field.name, _without_null(field.type))
    sink = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_batches([], pa.schema([field])), sink)
        return pa.field(field.name, plain_type(pq.read_schema(sink).field(0).type))
    except (pa.ArrowException, ValueError) as error:
        raise PromptsError(
            f"prompts: column {_shown(field.name, field.type)} in {url}, which a manifest cannot hold"
        ) from error


def _without_null(kind: pa.DataType) -> pa.DataType:
    """The type with text for null, so that files with values can be added to the prompts later."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_null(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_without_null(kind.key_type), _without_null(kind.item_type))
    if is_list(kind) and pa.types.is_null(kind.value_type):
        return pa.list_(pa.string()) if not pa.types.is_large_list(kind) else pa.large_list(pa.string())
    return kind
