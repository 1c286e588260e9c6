"""What an export layout is: the rules that an output must meet, and the function that writes the images of a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.storage.store import Storage


class ExportError(InputError):
    """The output does not fit the layout or is not complete, or the destination belongs to something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Counts of exported files. `num_left_out` images are in no file, because others of their grid are missing.
    `num_pairs` counts the rows of a dataset of pairs."""

    num_images: int = 0
    num_prompts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_left_out: int = 0
    num_pairs: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


class Place:
    """Where the images of one shard and split go. `names` are the files that were written, `details` what `finish`
    needs of them. `score_names` are the columns of scores, which differ between the images of a prompt."""

    def __init__(self, dest: Storage, shard_id: str, split: str | None, score_names: frozenset[str]) -> None:
        self.dest, self.shard_id, self.split, self.score_names = dest, shard_id, split, score_names
        self.names: list[str] = []
        self.details: list[str] = []

    @property
    def data_folder(self) -> str:
        """`data/`, or `data/<split>/` in an export with splits."""
        return f"data/{self.split}/" if self.split else "data/"

    def write(self, name: str, data: bytes) -> None:
        self.dest.write(name, data)
        self.names.append(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """An export as a whole: its destination, what `Place.details` has of every split once all shards are there, the
    recipe, and the options of the storage that the checkpoint may be on."""

    dest: Storage
    details: dict[str, list[str]]
    recipe: Recipe
    storage_options: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportPair:
    """Two images of one prompt and their values in the column that decides which one is preferred."""

    chosen: ExportImage
    rejected: ExportImage
    score_chosen: float
    score_rejected: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportLayout:
    """One way to lay out an export.

    * `write` puts the images of a shard into the destination: (place, images, recipe) -> counts. The same images always
      make the same files. `write_pairs` does this for pairs. A layout has one of them or both.
    * `check` raises ExportError for a recipe or for columns that do not fit, before anything is written.
    * `begin` and `finish` write what belongs to no shard, before the first and after the last one, and return the names
      of these files.
    * `file_of` names the file or folder that a prompt has at a weight: (prompt id, weight, recipe) -> name. Two prompts
      must not share one. None for a layout that keeps the images of each shard apart. `id_rule` says what ids keep
      them apart.
    * `column_names` gives the carried columns the names that readers of the layout expect.
    * `carries`: the names of the carried columns it writes; None for all of them.
    * `is_json`: columns are written as JSON, else as Parquet.
    * `pattern`: the data files of a split (None: of all) in a dataset card; None if Hugging Face does not read the
      layout. `has_columns`: whether it has the manifest's columns.
    * `own_columns` and `pair_columns`: what it has besides the manifest's columns; `x_*` is each column of an image.
    * `how_to_read`: language and code for the card. It names the destination DEST and its first split SPLIT.
    * `wants_whole_prompts`: images of a prompt must arrive together, also if some came from a retry.
    * `has_pixels`: False for a layout that holds no image files, which are then not read.
    * `files_per`: what gets a file of its own.
    * `has_splits`: False for a benchmark's folder. `is_local_only`: its library writes to local disks.
    """

    write: Callable[[Place, Iterator[ExportImage], Recipe], Written] | None = None
    write_pairs: Callable[[Place, Iterator[ExportPair], Recipe], Written] | None = None
    check: Callable[[Recipe, pa.Schema], None] = lambda recipe, schema: None
    begin: Callable[[Whole], Sequence[str]] = lambda _: ()
    finish: Callable[[Whole], Sequence[str]] = lambda _: ()
    file_of: Callable[[str, float, Recipe], str] | None = None
    id_rule: str = ""
    column_names: Callable[[Sequence[str]], list[str]] = list
    carries: tuple[str, ...] | None = None
    is_json: bool = False
    pattern: Callable[[str | None], str] | None = None
    has_columns: bool = True
    own_columns: tuple[str, ...] = ()
    pair_columns: tuple[str, ...] = ()
    how_to_read: tuple[str, str]
    wants_whole_prompts: bool = False
    has_pixels: bool = True
    files_per: Literal["image", "prompt", "shard"] = "shard"
    has_splits: bool = True
    is_local_only: bool = False


def pattern_of(extension: str) -> Callable[[str | None], str]:
    """The data files of a split of a layout that writes them into `Place.data_folder`."""
    return lambda split: f"data/{split}/*.{extension}" if split else f"data/*.{extension}"


def weight_folder(weight: float, recipe: Recipe) -> str:
    """`w7.5/` in a sweep, else nothing."""
    return f"w{weight:g}/" if len(recipe.cfg_weights) > 1 else ""
