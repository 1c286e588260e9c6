"""From the prompt rows of one shard to image requests. A row with an invalid value is rejected with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.families import FAMILIES
from actors.guidance import check_cfg_weight
from actors.noise import derive_seed
from actors.recipe import Recipe, sampling_settings
from actors.request import AnyRequest, ImageRequest
from workflows.job import RenderJob
from workflows.plan import Shard
from workflows.prompt_files.ids import default_id, default_stem, fault_of_id
from workflows.prompts import COLUMN_TYPES, read_rows, row_numbers

MAX_NUM_INFERENCE_STEPS = 1000
MAX_SEED = 2**64 - 1
MAX_WHOLE_FLOAT = 2**53  # floats above it leave out whole numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRow:
    """Why `num_images` images are not rendered: all images of a row, or one, which `image_id` names.

    `row` is the number of the row in its prompt file.
    """

    row: int
    prompt_id: str
    image_id: str | None
    num_images: int
    reason: str
    prompt: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRows:
    """A shard ready to be rendered: its requests, its rejected rows, and the columns carried to the manifest.

    `carried` has one row per prompt row of the shard. `row_of` maps a prompt id to its row in `carried`, `row_seeds` to
    the seed that the seeds of its images are derived from, None if the row has its image's own. `row_numbers` are the
    numbers of the rows in their prompt file.
    """

    shard: Shard
    requests: Sequence[AnyRequest]
    rejected: list[RejectedRow]
    carried: pa.Table
    row_of: dict[str, int]
    row_seeds: dict[str, int | None]
    row_numbers: Sequence[int]


def read_shard(job: RenderJob, shard: Shard) -> ShardRows:
    """Read and check a shard's rows: either all images of a row become requests, or the row is rejected."""
    table = read_rows(shard.file, shard.start, shard.stop, job.storage)
    numbers = row_numbers(shard.file, shard.start, shard.stop, job.storage)
    requests: list[ImageRequest] = []
    rejected: list[RejectedRow] = []
    row_of: dict[str, int] = {}
    row_seeds: dict[str, int | None] = {}
    for index in range(table.num_rows):
        row = Row(table, index, shard, numbers[index])
        try:
            made = list(_requests_of(row, job.recipe, taken_ids=row_of))
        except ValueError as error:
            rejected.append(row.reject(str(error), job.recipe))
        else:
            row_of[made[0].prompt_id] = index
            row_seeds[made[0].prompt_id] = None if row.has("image_seed") else _check_row_seed(row, job.recipe)
            requests.extend(made)
    carried = table.select([name for name in table.column_names if name not in COLUMN_TYPES])
    return ShardRows(
        shard=shard,
        requests=requests,
        rejected=rejected,
        carried=carried,
        row_of=row_of,
        row_seeds=row_seeds,
        row_numbers=numbers,
    )


def ignored_columns(family: str) -> list[str]:
    """Setting columns of a prompt file that this family does not read; another family's job may share the file."""
    return [name for name in SETTING_COLUMNS if name not in FAMILIES[family].settings]


class Row:
    """One row of the table. Values are read one by one, so that broken text (not UTF-8) rejects this row only."""

    def __init__(self, table: pa.Table, index: int, shard: Shard, number: int) -> None:
        self._table, self.index, self._shard, self.number = table, index, shard, number

    def __getitem__(self, column: str) -> Any:
        """The value, None if it is null or the file has no such column. Raises ValueError for broken text."""
        if not self.has_column(column):
            return None
        try:
            return self._table[column][self.index].as_py()
        except UnicodeDecodeError as error:
            raise ValueError(f"{column} is not valid UTF-8 text") from error

    def has_column(self, column: str) -> bool:
        return column in self._table.column_names

    @property
    def default_id(self) -> str:
        """The id of a row if the file has no `id` column: the file's name and the row's number in it."""
        return default_id(default_stem(self._shard.file.name), self.number)

    def reject(self, reason: str, recipe: Recipe) -> RejectedRow:
        """All images of this row, rejected for this reason."""
        prompt_id, prompt = self._text_or_none("id"), self._text_or_none("prompt")
        num_weights = 1 if self.has("cfg_weight") else len(recipe.cfg_weights)
        return RejectedRow(
            row=self.number,
            prompt_id=self.default_id if prompt_id is None else prompt_id,
            image_id=None,
            num_images=recipe.images_per_prompt * num_weights,
            reason=reason,
            prompt=prompt,
        )

    def has(self, column: str) -> bool:
        return self.has_column(column) and self._table[column][self.index].is_valid

    def _text_or_none(self, column: str) -> str | None:
        try:
            return None if self[column] is None else str(self[column])
        except ValueError:
            return None


def _requests_of(row: Row, recipe: Recipe, *, taken_ids: dict[str, int]) -> Iterator[ImageRequest]:
    """All images of a row: each index at each weight. Raises ValueError with the reason to reject the row."""
    prompt_id = check_id(row, taken_ids)
    prompt = _check_prompt(row["prompt"])
    row_seed, own_seed = _check_row_seed(row, recipe), _check_image_seed(row["image_seed"], recipe)
    settings = sampling_settings(recipe) | _settings_of_row(row, FAMILIES[recipe.family].settings)
    negative_prompt = (row["negative_prompt"] or "").strip() or None
    for image_index in range(recipe.images_per_prompt):
        seed = derive_seed(row_seed, prompt_id, image_index) if own_seed is None else own_seed
        for cfg_weight in _check_weights(row["cfg_weight"], recipe):
            is_sweep = len(recipe.cfg_weights) > 1
            yield ImageRequest(
                image_id=f"{prompt_id}_{image_index}" + (f"_w{cfg_weight:g}" if is_sweep else ""),
                prompt_id=prompt_id,
                image_index=image_index,
                prompt=prompt,
                negative_prompt=negative_prompt,
                seed=seed,
                cfg_weight=cfg_weight,
                **settings,
            )


def _check_row_seed(row: Row, recipe: Recipe) -> int:
    """The seed that the seeds of the row's images are derived from: its own, or the job's."""
    row_seed = _whole_number(row["seed"], "seed", 0, MAX_SEED)
    return recipe.seed if row_seed is None else row_seed


def _check_image_seed(value: Any, recipe: Recipe) -> int | None:
    """The image's own seed, as a manifest or an image file has it; None if the row has none."""
    if isinstance(value, float) and abs(value) > MAX_WHOLE_FLOAT:
        raise ValueError(f"image_seed must be stored as uint64: a float cannot hold all 64 bits of a seed, got {value}")
    image_seed = _whole_number(value, "image_seed", 0, MAX_SEED)
    if image_seed is not None and recipe.images_per_prompt > 1:
        raise ValueError(
            f"image_seed is the seed of one image, and images_per_prompt is {recipe.images_per_prompt}; give each "
            "image a row of its own, or set sampling.images_per_prompt: 1"
        )
    return image_seed


def _settings_of_row(row: Row, takes: Iterable[str]) -> dict[str, Any]:
    """The sampling settings that the row sets itself and the family takes. Raises ValueError."""
    values = {name: check(row[name]) for name, check in SETTING_COLUMNS.items() if name in takes}
    return {name: value for name, value in values.items() if value is not None}


def check_id(row: Row, taken_ids: dict[str, int]) -> str:
    """The row's id. It becomes part of a file name, so characters that could leave the folder are not allowed."""
    if not row.has_column("id"):
        return row.default_id
    if row["id"] is None:
        raise ValueError("id is null; in a file with an id column every row needs one")
    prompt_id = str(row["id"])
    if fault := fault_of_id(prompt_id):
        raise ValueError(fault)
    if prompt_id in taken_ids:
        raise ValueError(f"id must be unique, an earlier row of this shard has {prompt_id!r} too")
    return prompt_id


def _check_prompt(prompt: str | None) -> str:
    if prompt is None:
        raise ValueError("prompt is null")
    if not prompt.strip():
        raise ValueError("prompt is empty")
    return prompt


def _check_weights(value: Any, recipe: Recipe) -> tuple[float, ...]:
    if value is None:
        return recipe.cfg_weights
    check_cfg_weight(float(value), allow_any=recipe.allow_any_cfg_weight)
    return (float(value),)


def _check_temperature(value: Any) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"temperature must be a finite number of at least 0 (0 is greedy), got {value:g}")
    return float(value)


def _check_steps(value: Any) -> int | None:
    return _whole_number(value, "num_inference_steps", 1, MAX_NUM_INFERENCE_STEPS)


# The sampling settings that a prompt file can set row by row: column and check.
SETTING_COLUMNS = {"temperature": _check_temperature, "num_inference_steps": _check_steps}


def _whole_number(value: Any, name: str, low: int, high: int) -> int | None:
    """The value as an int. Whole floats are allowed, because tables with missing values store ints as floats."""
    if value is None:
        return None
    if not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value}")
    return int(value)
