"""The images of a shard that the rules keep, as positions of its rows, and how many each rule removed.

All images of a prompt row are in one shard, so every rule but the sample needs one shard at a time. For the sample,
each image or pair has a random number of its own; `workflows.export.sample` finds the limit below which they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.errors import shown
from workflows.export.layouts.layout import ExportError
from workflows.export.rows import column_of
from workflows.export.rules import Rules, split_of
from workflows.export.sample import uniform
from workflows.row_filter import RowFilter, compile_filter, listed
from workflows.scores.command import advice_on
from workflows.storage.store import Storage

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of numbers that `--by` or `--pairs` names; `field_name` is a field of a scorer's struct."""

    name: str
    kind: pa.DataType
    field_name: str | None

    def values(self, rows: pa.Table) -> Numbers:
        """Float64 [rows]; NaN for null."""
        column = column_of(rows, self.name, self.kind).combine_chunks()
        if self.field_name is not None:
            column = column.field(self.field_name)
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chooser:
    """The rules, checked against the columns of an output."""

    rules: Rules
    schema: pa.Schema
    filters: tuple[RowFilter, ...]
    by: Column | None
    pairs: Column | None

    @property
    def columns(self) -> set[str]:
        """The columns that the rules read."""
        named = [column.name for column in (self.by, self.pairs) if column is not None]
        return {*named, *(name for one in self.filters for name in one.columns)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The rows of a shard that the rules keep.

    * `rows`: positions in the shard; with pairs, that of each chosen image. `rejected`: with pairs, its partner.
    * `removed`: images that each rule removed, by the rule as the user gave it.
    """

    rows: Positions
    rejected: Positions | None = None
    removed: dict[str, int] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        return len(self.rows) * (1 if self.rejected is None else 2)

    def where(self, is_kept: npt.NDArray[np.bool_]) -> Chosen:
        """Only the images or pairs where the mask is true."""
        rejected = None if self.rejected is None else self.rejected[is_kept]
        return Chosen(rows=self.rows[is_kept], rejected=rejected, removed=self.removed)


def read_rules(rules: Rules, schema: pa.Schema, output: Storage) -> Chooser:
    """Check the rules against the columns of an output. Raises RowFilterError or ExportError."""

    def advice(column: str) -> str:
        return advice_on(column, schema.names, output)

    return Chooser(
        rules=rules,
        schema=schema,
        filters=tuple(compile_filter(text, schema, name="--where", advice=advice) for text in rules.where),
        by=None if rules.by is None else _find_column("--by", rules.by, schema, advice),
        pairs=None if rules.pairs is None else _find_column("--pairs", rules.pairs, schema, advice),
    )


def choose(chooser: Chooser, rows: pa.Table) -> Chosen:
    """Apply every rule but the sample to the rows of a shard. Raises RowFilterError."""
    kept, removed = np.arange(rows.num_rows), dict[str, int]()
    for one in chooser.filters:
        columns = [column_of(rows, name, chooser.schema.field(name).type) for name in one.columns]
        # One more column, for a condition that names none.
        table = pa.table([*columns, pa.nulls(rows.num_rows)], [*one.columns, "\0"])
        after = kept[one.mask(table).to_numpy(zero_copy_only=False)[kept]]
        removed[f"--where {one.text}"] = len(kept) - len(after)
        kept = after
    rules = chooser.rules
    prompts = rows["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    if chooser.by is not None and rules.top is not None:
        after = _best_of_prompts(kept, prompts, chooser.by.values(rows), rules.top)
        removed[f"--top {rules.top} --by {rules.by}"] = len(kept) - len(after)
        kept = after
    if chooser.pairs is None:
        return Chosen(rows=kept, removed=removed)
    best, worst = _pairs_of_prompts(kept, prompts, chooser.pairs.values(rows))
    removed[f"--pairs {rules.pairs}"] = len(kept) - 2 * len(best)
    return Chosen(rows=best, rejected=worst, removed=removed)


def random_numbers(chosen: Chosen, rows: pa.Table, shard_id: str, seed: int) -> npt.NDArray[np.uint64]:
    """A random number for each image or pair, from its id alone: in any order, the same ones are sampled."""
    image_ids = rows["image_id"].take(pa.array(chosen.rows)).to_pylist()
    return np.array([uniform(seed, shard_id, image_id) for image_id in image_ids], np.uint64)


def splits_of(chosen: Chosen, rows: pa.Table, rules: Rules) -> list[str | None]:
    """The split of each image or pair, by its prompt."""
    return [split_of(prompt, rules.splits) for prompt in rows["prompt"].take(pa.array(chosen.rows)).to_pylist()]


def _find_column(option: str, text: str, schema: pa.Schema, advice: Callable[[str], str]) -> Column:
    """The column that an option names, which must hold numbers."""
    name, dot, field_name = (text, "", "") if text in schema.names else text.partition(".")
    kind = schema.field(name).type if name in schema.names else pa.null()
    if dot and pa.types.is_struct(kind) and field_name in [field.name for field in kind]:
        leaf = kind.field(field_name).type
    else:
        leaf = None if dot else kind
    if leaf is not None and (pa.types.is_integer(leaf) or pa.types.is_floating(leaf)):
        return Column(name=name, kind=kind, field_name=field_name or None)
    where_from = "" if name in schema.names else advice(text)
    raise ExportError(
        f"{option} names a column of numbers, got {shown(text)}{where_from}; they are {listed(_numbers_in(schema))}"
    )


def _numbers_in(schema: pa.Schema) -> Sequence[str]:
    def is_number(kind: pa.DataType) -> bool:
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

    names = []
    for column in schema:
        inner = list(column.type) if pa.types.is_struct(column.type) else []
        names += [column.name] * is_number(column.type)
        names += [f"{column.name}.{one.name}" for one in inner if is_number(one.type)]
    return names


def _best_of_prompts(kept: Positions, prompts: Positions, values: Numbers, top: int) -> Positions:
    """Of each prompt, the `top` rows with the highest values; of equal ones the first. In the order of the rows."""
    kept = kept[~np.isnan(values[kept])]
    order = kept[np.lexsort((kept, -values[kept], prompts[kept]))]
    of_prompt = prompts[order]
    starts = np.flatnonzero(np.r_[True, of_prompt[1:] != of_prompt[:-1]]) if len(order) else order
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[ranks < top])


def _pairs_of_prompts(kept: Positions, prompts: Positions, values: Numbers) -> tuple[Positions, Positions]:
    """Of each prompt whose values differ, the rows with the highest and the lowest; of equal ones the first."""
    best = _best_of_prompts(kept, prompts, values, 1)
    worst = _best_of_prompts(kept, prompts, -values, 1)
    worst_of = dict(zip(prompts[worst].tolist(), worst.tolist(), strict=True))
    partners = np.array([worst_of[prompt] for prompt in prompts[best].tolist()], np.int64)
    is_decided = values[best] > values[partners]
    return best[is_decided], partners[is_decided]
