"""The files that the prompts of an export get in layouts where prompts have files: no two may share one."""

from __future__ import annotations

import unicodedata

import pyarrow as pa

from actors.errors import shown
from actors.recipe import Recipe
from workflows.export.choice import Chosen
from workflows.export.layouts.layout import ExportError, ExportLayout
from workflows.storage.damage import DamagedFileError
from workflows.storage.path import output_arguments
from workflows.storage.store import Storage

KEYS = ["image_id", "prompt_id", "image_index", "cfg_weight"]


class Names:
    """The images of the export by the file that each gets. Memory grows with prompts where prompts have files."""

    def __init__(self, source: Storage, layout: ExportLayout, recipe: Recipe) -> None:
        self._source, self._layout, self._recipe = source, layout, recipe
        self._owner_of: dict[str, tuple[str, str, str]] = {}  # folded file name -> file name, prompt id, shard id

    def add(self, rows: pa.Table, chosen: Chosen, shard_id: str) -> None:
        """Raise ExportError for a prompt whose file another prompt has, DamagedFileError for an image listed twice."""
        seen, is_chosen = set[object](), set(chosen.rows.tolist())
        keys = zip(*(rows[name].to_pylist() for name in KEYS), strict=True)
        for position, (image_id, prompt_id, image_index, weight) in enumerate(keys):
            for key in (image_id, (prompt_id, image_index, weight)):
                if key in seen:
                    verify = f"janus-batch verify {output_arguments(self._source.url, self._source.options)}"
                    raise DamagedFileError(
                        f"{self._source.url}/manifest lists image {shown(image_id)} of shard {shard_id} twice; "
                        f"`{verify}` names every fault"
                    )
                seen.add(key)
            if self._layout.file_of is not None and position in is_chosen:
                self._take(self._layout.file_of(prompt_id, weight, self._recipe), prompt_id, shard_id)

    def _take(self, name: str, prompt_id: str, shard_id: str) -> None:
        folded = unicodedata.normalize("NFC", name).casefold()  # what file systems that ignore case compare
        other_name, other_id, other_shard = self._owner_of.setdefault(folded, (name, prompt_id, shard_id))
        if (prompt_id, shard_id) != (other_id, other_shard):
            both = name if name == other_name else f"{other_name} and {name}, which many file systems do not tell apart"
            raise ExportError(
                f"prompts {shown(other_id)} (shard {other_shard}) and {shown(prompt_id)} (shard {shard_id}) would "
                f"share the file {both}. Give all prompts ids (column `id`) that {self._layout.id_rule}, and render "
                "into a new output"
            )
