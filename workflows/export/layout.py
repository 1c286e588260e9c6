"""What an export layout is: the rules that an output must meet, and the function that writes the images of a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.storage.store import Storage


class ExportError(InputError):
    """The output does not fit the layout or is not complete, or the destination belongs to something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Counts of exported files. `num_left_out` images are in no file, because others of their grid are missing."""

    num_images: int = 0
    num_prompts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_left_out: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportLayout:
    """One way to lay out an export.

    * `write` puts the images of a shard into the destination: (destination, shard id, images, recipe) -> counts. The
      same images always make the same files.
    * `check` raises ExportError for a recipe or for columns that do not fit, before anything is written.
    * `file_of` names the file or folder that a prompt has at a weight: (prompt id, weight, recipe) -> name. Two prompts
      must not share one. None for a layout that keeps the images of each shard apart. `id_rule` says what ids keep
      them apart.
    * `column_names` gives the carried columns the names that readers of the layout expect.
    * `carries`: the names of the carried columns it writes; None for all of them.
    * `is_json`: columns are written as JSON, else as Parquet.
    * `pattern`: the data files in a dataset card; None if Hugging Face does not read the layout.
    * `how_to_read`: language and code for the card. It names the destination DEST.
    * `wants_whole_prompts`: images of a prompt must arrive together, also if some came from a retry.
    """

    write: Callable[[Storage, str, Iterator[ExportImage], Recipe], Written]
    check: Callable[[Recipe, pa.Schema], None] = lambda recipe, schema: None
    file_of: Callable[[str, float, Recipe], str] | None = None
    id_rule: str = ""
    column_names: Callable[[Sequence[str]], list[str]] = list
    carries: tuple[str, ...] | None = None
    is_json: bool = False
    pattern: str | None = None
    how_to_read: tuple[str, str]
    wants_whole_prompts: bool = False


def weight_folder(weight: float, recipe: Recipe) -> str:
    """`w7.5/` in a sweep, else nothing."""
    return f"w{weight:g}/" if len(recipe.cfg_weights) > 1 else ""
