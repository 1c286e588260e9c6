"""The carried columns of a manifest as the report shows them: as text, and as groups of images with counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa

MAX_CARRIED, MAX_CARRIED_CHARACTERS = 6, 100
MAX_GROUPS = 40  # values of a column; a column with more does not divide a job into groups


@dataclass(kw_only=True, slots=True)
class GroupFacts:
    """The images with one value of a column: their number, and matches by quality rule."""

    num_images: int = 0
    num_matching: Counter[str] = field(default_factory=Counter)


# The columns that divide a job, with the facts of each value.
Grouping: TypeAlias = list[tuple[str, dict[str | None, GroupFacts]]]


@dataclass(kw_only=True, slots=True)
class Groups:
    """The images of a job by the values of its carried columns: column -> value -> facts. A null is None."""

    columns: dict[str, dict[str | None, GroupFacts]] = field(default_factory=dict)
    _ungrouped: set[str] = field(default_factory=set)

    def add(self, carried: pa.Table, matches: Mapping[str, np.ndarray]) -> None:
        """Count the rows of a manifest part; `matches` is bool [num_rows] by quality rule."""
        for name in carried.column_names:
            if name not in self._ungrouped:
                self._add_column(name, carried[name], matches)

    def _add_column(self, name: str, column: pa.ChunkedArray, matches: Mapping[str, np.ndarray]) -> None:
        groups = self.columns.setdefault(name, {})
        codes, texts = _encode(column)
        if len(groups.keys() | set(texts)) > MAX_GROUPS:
            del self.columns[name]
            self._ungrouped.add(name)
            return
        counts = np.bincount(codes, minlength=len(texts))
        matching = {rule: np.bincount(codes[found], minlength=len(texts)) for rule, found in matches.items()}
        for index, text in enumerate(texts):
            facts = groups.setdefault(text, GroupFacts())
            facts.num_images += int(counts[index])
            facts.num_matching.update({rule: int(found[index]) for rule, found in matching.items()})

    def divided(self) -> dict[str, dict[str | None, GroupFacts]]:
        """The columns with more than one value, each with its largest groups first."""
        return {
            name: dict(sorted(groups.items(), key=lambda item: -item[1].num_images))
            for name, groups in self.columns.items()
            if len(groups) > 1
        }


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str | None]]:
    """The distinct values as the page shows them, and for each row the number of its value."""
    try:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:  # Arrow encodes no extension types
        return np.zeros(len(column), np.int32), [None]
    texts = as_text(pa.chunked_array([encoded.dictionary]))
    return np.asarray(encoded.indices), [None if text is None else text[:MAX_CARRIED_CHARACTERS] for text in texts]


def carried_texts(table: pa.Table, shown: np.ndarray) -> list[dict[str, str]]:
    """The columns of the rows `shown`, int64 [num_shown], as text by name; nulls are left out."""
    rows: list[dict[str, str]] = [{} for _ in shown]
    for name in table.column_names:
        for row, value in zip(rows, as_text(table[name].take(pa.array(shown))), strict=True):
            if value is not None:
                row[name] = value[:MAX_CARRIED_CHARACTERS]
    return rows


def as_text(column: pa.ChunkedArray) -> list[str | None]:
    """The values by Arrow's cast, which also takes dates that Python does not; nulls for types that it lacks.

    Text may hold any bytes; those that are not UTF-8 become replacement characters.
    """
    kind = column.type
    try:
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))  # Arrow cannot print every time zone
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        data = (column if is_text else column.cast(pa.string())).cast(pa.large_binary()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return [None] * len(column)
    return [None if value is None else value.decode("utf-8", "replace") for value in data]
