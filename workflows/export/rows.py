"""The rows of an output as rules and layouts see them: the manifest's, joined with the scores of their images.

A scorer with one column of values gives the column `NAME`, one with several a struct `NAME`, whose fields are
`NAME.column` in expressions. Vectors, such as embeddings, are not joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from actors.errors import reason_line
from workflows.export.layouts.layout import ExportError
from workflows.output.manifest import MANIFEST_SCHEMA, manifest_name, read_footer
from workflows.output.parts import read_part
from workflows.scores.parts import (
    KEY_SCHEMA,
    Scorer,
    is_value,
    positions_of_rows,
    read_scores,
    read_scores_schema,
    scored_parts,
    scorer_names,
    scorer_of,
)
from workflows.storage.store import Storage

JUDGE, JUDGE_SCORE = "judge", "judge_score"  # a judge that looked while rendering wrote the manifest's column


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one scorer gave an output: its columns of values in their types, and the parts that have them."""

    scorer: Scorer
    columns: pa.Schema
    parts: frozenset[str]

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def field(self) -> pa.Field:
        """The column of these scores among the columns of a row."""
        is_single = len(self.columns) == 1
        return pa.field(self.name, self.columns.field(0).type if is_single else pa.struct(self.columns))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A part of the manifest with its scores, and the number of its images that a scorer has not seen, by scorer."""

    table: pa.Table
    num_unscored: dict[str, int]


def find_scores(source: Storage, parts: Sequence[str]) -> tuple[Scores, ...]:
    """The scorers with scores of some of these parts. Raises DamagedFileError."""
    found = []
    for name in scorer_names(source):
        scored = sorted(set(scored_parts(source, name)) & set(parts))
        if not scored:
            continue
        schema = read_scores_schema(source, name, scored[0])
        columns = pa.schema(
            [pa.field(field.name, field.type) for field in schema if _is_score(field)], metadata=schema.metadata
        )
        if len(columns):
            scorer = scorer_of(schema, f"{source.url}/scores/{name}")
            found.append(Scores(scorer=scorer, columns=columns.remove_metadata(), parts=frozenset(scored)))
    return tuple(found)


def _is_score(field: pa.Field) -> bool:
    return field.name not in KEY_SCHEMA.names and is_value(field.type)


def read_rows(source: Storage, part: str, scores: Sequence[Scores]) -> Rows:
    """The rows of a part: the manifest's columns, those carried from the prompts, and the scores.

    A carried column with the name of a scorer gets the prefix `source_`, like one with a name of the manifest. Raises
    DamagedFileError, and ExportError for parts of one scorer that disagree about it.
    """
    table = read_part(source, part)
    taken = [one.name for one in scores]
    table = table.rename_columns([_free_name(name, taken, table.column_names) for name in table.column_names])
    num_unscored = {}
    for one in scores:
        column, num_unscored[one.name] = _score_column(source, part, one, table)
        table = table.append_column(one.field, column)
    return Rows(table=table, num_unscored=num_unscored)


def rows_schema(source: Storage, part: str, scores: Sequence[Scores]) -> pa.Schema:
    """The columns that `read_rows` gives for a part, from its footer."""
    footer = read_footer(source, manifest_name(part)).schema.to_arrow_schema()
    columns = [*MANIFEST_SCHEMA, *(field for field in footer if field.name not in MANIFEST_SCHEMA.names)]
    taken, names = [one.name for one in scores], [field.name for field in columns]
    renamed = [field.with_name(_free_name(field.name, taken, names)) for field in columns]
    return pa.schema([*renamed, *(one.field for one in scores)])


def with_judge(schema: pa.Schema) -> pa.Schema:
    """The schema with `judge` for the manifest's `judge_score`, unless a scorer has this name."""
    if JUDGE in schema.names or JUDGE_SCORE not in schema.names:
        return schema
    return schema.append(pa.field(JUDGE, schema.field(JUDGE_SCORE).type))


def column_of(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of rows by the name that expressions have for it, in a type; null if these rows lack it."""
    if name == JUDGE and JUDGE not in table.column_names:
        name = JUDGE_SCORE
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    return column if column.type == kind else column.cast(kind)


def _free_name(name: str, taken: Sequence[str], names: Sequence[str]) -> str:
    while name in taken:
        name = f"source_{name}"
        if name in names:
            taken = [*taken, name]
    return name


def _score_column(source: Storage, part: str, scores: Scores, rows: pa.Table) -> tuple[pa.ChunkedArray, int]:
    """The scores in the order of the rows, and the number of rows without."""
    kind = scores.field.type
    if part not in scores.parts:
        return pa.chunked_array([pa.nulls(rows.num_rows, kind)]), rows.num_rows
    table = read_scores(source, scores.name, part, scores.columns.names)
    where = f"{source.url}/scores/{scores.name}/{part}.parquet"
    if (scorer := scorer_of(table.schema, where)) != scores.scorer:
        raise ExportError(
            f"{source.url}/scores/{scores.name} holds scores of two scorers: version {scores.scorer.version} and, in "
            f"{part}.parquet, version {scorer.version}, or with other settings; move one of them to another folder"
        )
    positions = positions_of_rows(rows, table)
    try:
        taken = table.select(scores.columns.names).cast(scores.columns).take(positions)
    except pa.ArrowInvalid as error:
        raise ExportError(
            f"{source.url}/scores/{scores.name} has columns of several types, because its run was interrupted; run the "
            f"same `janus-batch score` again, which settles them ({part}.parquet: {reason_line(error)})"
        ) from error
    if len(scores.columns) == 1:
        return taken.column(0), positions.null_count
    struct = pa.StructArray.from_arrays([column.combine_chunks() for column in taken.columns], fields=list(kind))
    return pa.chunked_array([struct]), positions.null_count
