"""The scores of an output's images as the report reads them: the numbers of each scorer, row by row of the manifest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from workflows.output.manifest import kind_of_part
from workflows.scores.parts import KEY_SCHEMA, is_value, read_scores, scored_parts, scorer_names, scores_of_rows
from workflows.storage.store import Storage

KEY_COLUMNS = KEY_SCHEMA.names  # of the manifest, to which scores belong
JUDGE_COLUMN = "judge_score"  # of a manifest whose job has a judge


class Scores:
    """The judge's score in the manifest, and the scorers of an output, from one listing each.

    A column that has its scorer's name, or is its only one, has the scorer's name in the report, every other one
    `<scorer>.<column>`.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._parts = {name: frozenset(scored_parts(storage, name)) for name in scorer_names(storage)}

    def __bool__(self) -> bool:
        return any(self._parts.values())

    def of_rows(self, part: str, rows: pa.Table) -> dict[str, np.ndarray]:
        """Scores by name, float32 [num_rows] with NaN for an image without one; `rows` are a part's, in its order."""
        found = self.of_manifest(rows)
        for name, parts in self._parts.items():
            if part in parts:
                table = scores_of_rows(rows.select(KEY_COLUMNS), read_scores(self._storage, name, part))
                found |= _numbers(name, table)
        return found

    @staticmethod
    def of_manifest(rows: pa.Table) -> dict[str, np.ndarray]:
        """The judge's score, if the rows have it."""
        if kind_of_part(rows.schema.metadata) != "judged":  # a column of this name may be carried
            return {}
        return {JUDGE_COLUMN: _as_floats(rows[JUDGE_COLUMN])}


def _numbers(scorer: str, table: pa.Table) -> dict[str, np.ndarray]:
    columns = [field.name for field in table.schema if is_value(field.type) and not _is_text(field.type)]
    return {_label(scorer, column, columns): _as_floats(table[column]) for column in columns}


def _label(scorer: str, column: str, columns: Iterable[str]) -> str:
    return scorer if column == scorer or list(columns) == [column] else f"{scorer}.{column}"


def _as_floats(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.float32("nan")).astype(np.float32)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
