"""What an export will hold, determined before anything is written: its columns, and the images that the rules keep.

Two images that would share a file are refused here, and so are columns that the layout cannot hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.choice import Chooser, Chosen, choose, random_numbers, read_rules
from workflows.export.columns import ColumnError, common_schema, convert, exported_schema, needs_text
from workflows.export.layouts.layout import ExportError, ExportLayout
from workflows.export.names import KEYS, Names
from workflows.export.rows import JUDGE, Scores, column_of, find_scores, read_rows, rows_schema, with_judge
from workflows.export.rules import NO_RULES, Rules
from workflows.export.sample import Sampler
from workflows.output.manifest import MANIFEST_SCHEMA
from workflows.output.read_ahead import read_ahead
from workflows.scores.command import score_command
from workflows.storage.store import Storage

LEFT_OUT = ("image", "codes", "latents")  # of the manifest: locations in OUTPUT, and bulk


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What an export holds.

    * `schema`: its columns in their types. `scores`: the scorers whose scores are among them.
    * `num_images`: images that it holds, of `num_committed` in the output. `removed`: images removed, by rule.
    * `chooser`, `sample_limit`: choose the same images again. `num_prompts` and `most_in_shard` (images of the
      largest shard) are counted before the sample.
    """

    schema: pa.Schema
    scores: tuple[Scores, ...]
    chooser: Chooser
    sample_limit: int
    num_images: int
    num_committed: int
    num_prompts: int
    most_in_shard: int
    removed: dict[str, int]

    def chosen(self, rows: pa.Table, shard_id: str) -> Chosen:
        """The rows of a shard, given by `rule_columns`, that are in the export."""
        chosen = choose(self.chooser, rows)
        rules = self.chooser.rules
        if rules.sample is None:
            return chosen
        return chosen.where(random_numbers(chosen, rows, shard_id, rules.sample_seed) <= self.sample_limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What is kept of a manifest part: the columns that rules and names need, the types of all columns, those that
    readers can hold as text only, and the number of images without scores by scorer."""

    shard_id: str
    rows: pa.Table
    schema: pa.Schema
    text_columns: set[str]
    num_unscored: dict[str, int]


@dataclass(kw_only=True, slots=True)
class _Counts:
    """Counts over all shards."""

    num_committed: int = 0
    num_chosen: int = 0
    num_prompts: int = 0
    num_whole: int = 0  # prompts at a weight with all their images, before the sample
    most_in_shard: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    num_unscored: Counter[str] = field(default_factory=Counter)


def take_inventory(
    source: Storage,
    shards: Sequence[Sequence[str]],
    layout: ExportLayout,
    recipe: Recipe,
    rules: Rules = NO_RULES,
    *,
    allow_incomplete: bool = False,
) -> Inventory:
    """Read the manifest parts of each shard, and their scores. Raises ExportError, RowFilterError, ColumnError or
    DamagedFileError."""
    if rules.sample is not None and layout.wants_whole_prompts and recipe.images_per_prompt > 1:
        raise ExportError(
            f"--sample picks single images, and this layout needs all {recipe.images_per_prompt} of each prompt, got "
            f"--sample {rules.sample}; --where picks prompts"
        )
    parts = [part for shard in shards for part in shard]
    scores = find_scores(source, parts)
    chooser = read_rules(rules, _columns_of_all(source, parts, scores, rules), source)
    schemas: dict[pa.Schema, None] = {}  # few, in the order of the parts
    text_columns, counts = set[str](), _Counts()
    names, sampler = Names(source, layout, recipe), Sampler(rules.sample or 1)
    pairs = [(shard[0], part) for shard in shards for part in shard]
    in_order = read_ahead(pairs, lambda pair: _read(source, *pair, scores, chooser, layout, recipe))
    for shard_id, of_shard in groupby(in_order, key=lambda part: part.shard_id):
        found = list(of_shard)
        schemas |= dict.fromkeys(part.schema for part in found)
        text_columns = text_columns.union(*(part.text_columns for part in found))
        rows = pa.concat_tables([part.rows for part in found])
        chosen = choose(chooser, rows)
        names.add(rows, chosen, shard_id)
        if rules.sample is not None:
            sampler.add(random_numbers(chosen, rows, shard_id, rules.sample_seed))
        _count(counts, found, rows, chosen, recipe)
    _check_scored(source, recipe, chooser, scores, counts, allow_incomplete=allow_incomplete)
    num_images, removed = _sampled(rules, counts)
    if not num_images or (layout.wants_whole_prompts and not counts.num_whole):
        reason = "every image is removed by the rules" if counts.num_committed else "every row is rejected"
        reason = f"no prompt has all {recipe.images_per_prompt} of its images" if num_images else reason
        raise ExportError(f"{source.url} holds no images to export: {reason}")
    return Inventory(
        schema=_common_schema(source, schemas, text_columns, layout),
        scores=scores,
        chooser=chooser,
        sample_limit=sampler.limit,
        num_images=num_images,
        num_committed=counts.num_committed,
        num_prompts=counts.num_prompts,
        most_in_shard=counts.most_in_shard,
        removed=removed,
    )


def rule_columns(rows: pa.Table, chooser: Chooser) -> pa.Table:
    """The columns of a part's rows that the rules and the names of files need, in the same types for every part."""
    names = [*KEYS, "prompt", *sorted(chooser.columns.difference(KEYS, ["prompt"]))]
    kinds = [rows.schema.field(name).type if name in rows.column_names else None for name in [*KEYS, "prompt"]]
    kinds += [chooser.schema.field(name).type for name in names[len(kinds) :]]
    return pa.table([column_of(rows, *pair) for pair in zip(names, kinds, strict=True)], names)


def _columns_of_all(source: Storage, parts: Sequence[str], scores: Sequence[Scores], rules: Rules) -> pa.Schema:
    """Every column that rules can name, with scores first: messages list them. Without rules that name one, no
    footer is read."""
    if not (rules.where or rules.by or rules.pairs):
        return pa.schema([])
    schemas = dict.fromkeys(read_ahead(parts, lambda part: rows_schema(source, part, scores)))
    columns, names = with_judge(common_schema(schemas)), {JUDGE, *(one.name for one in scores)}
    return pa.schema(sorted(columns, key=lambda field: field.name not in names))


def _common_schema(
    source: Storage, schemas: dict[pa.Schema, None], text_columns: set[str], layout: ExportLayout
) -> pa.Schema:
    try:
        return common_schema(exported_schema(s, text_columns, is_json=layout.is_json) for s in schemas)
    except ColumnError as error:
        raise ColumnError(f"{source.url}: {error}") from error


def _count(counts: _Counts, parts: Sequence[_Part], rows: pa.Table, chosen: Chosen, recipe: Recipe) -> None:
    keys = rows.select(["prompt_id", "cfg_weight"]).take(pa.array(chosen.rows, pa.int64()))
    num_of = Counter(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    counts.num_committed += rows.num_rows
    counts.num_chosen += chosen.num_images
    counts.num_prompts += len({prompt_id for prompt_id, _ in num_of})
    counts.num_whole += sum(number == recipe.images_per_prompt for number in num_of.values())
    counts.most_in_shard = max(counts.most_in_shard, chosen.num_images)
    counts.removed.update(chosen.removed)
    for part in parts:
        counts.num_unscored.update(part.num_unscored)


def _sampled(rules: Rules, counts: _Counts) -> tuple[int, dict[str, int]]:
    """The number of images in the export, and those that each rule removed."""
    removed, num_images = dict(counts.removed), counts.num_chosen
    if rules.sample is not None:
        num_images = min(num_images, rules.sample * (1 if rules.pairs is None else 2))
        removed[f"--sample {rules.sample} --seed {rules.sample_seed}"] = counts.num_chosen - num_images
    return num_images, removed


def _check_scored(
    source: Storage,
    recipe: Recipe,
    chooser: Chooser,
    scores: Sequence[Scores],
    counts: _Counts,
    *,
    allow_incomplete: bool,
) -> None:
    """Raise ExportError if a rule reads scores that some images do not have yet: it would remove them silently."""
    for one in scores:
        num = counts.num_unscored[one.name]
        if num and one.name in chooser.columns and not allow_incomplete:
            verb = score_command(source, recipe, one.scorer)
            raise ExportError(
                f"{num:,} of {counts.num_committed:,} images have no scores of {one.name}, which a rule reads; "
                f"`{verb}` scores them, or export the others with --allow-incomplete"
            )


def _read(
    source: Storage,
    shard_id: str,
    part: str,
    scores: Sequence[Scores],
    chooser: Chooser,
    layout: ExportLayout,
    recipe: Recipe,
) -> _Part:
    """A part, after a check of its columns and a trial conversion."""
    rows = read_rows(source, part, scores)
    table = exported_columns(rows.table, layout)
    text_columns = needs_text(table, is_json=layout.is_json)
    schema = exported_schema(table.schema, text_columns, is_json=layout.is_json)
    layout.check(recipe, schema)
    convert(table, schema)
    return _Part(
        shard_id=shard_id,
        rows=rule_columns(rows.table, chooser),
        schema=table.schema.remove_metadata(),
        text_columns=text_columns,
        num_unscored=rows.num_unscored,
    )


def exported_columns(rows: pa.Table, layout: ExportLayout) -> pa.Table:
    """The columns that the layout writes of each row."""
    carried = [name for name in rows.column_names if name not in MANIFEST_SCHEMA.names]
    dropped = [name for name in carried if layout.carries is not None and name not in layout.carries]
    return rows.drop_columns([*LEFT_OUT, *dropped])
