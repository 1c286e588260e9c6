"""The rejected rows of an output, grouped by kind of reason, with examples. Memory does not grow with their number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from workflows.output.manifest import read_rejected, rejected_files
from workflows.output.read_ahead import read_ahead
from workflows.storage.store import Storage

MAX_KINDS = 200
MAX_EXAMPLES = 100  # per kind
OTHER_REASONS = "other reasons"
COLUMNS = ["row", "prompt_id", "prompt", "reason", "num_images"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedExample:
    """A prompt row that lost `num_images` images for one reason."""

    row: int
    prompt_id: str
    prompt: str | None
    reason: str
    num_images: int


@dataclass(kw_only=True, slots=True)
class Rejections:
    """Lost images by kind of reason (a reason without its numbers and quoted values), and examples of each kind."""

    num_images: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[RejectedExample]] = field(default_factory=dict)

    def add(self, example: RejectedExample) -> None:
        kind = kind_of(example.reason)
        if kind not in self.examples and len(self.examples) >= MAX_KINDS:
            kind = OTHER_REASONS
        self.num_images[kind] += example.num_images
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)


def collect_rejections(storage: Storage, shard_ids: Iterable[str]) -> Rejections:
    """Read the rejected rows of committed shards. `shard_ids` are the ids of all manifest parts."""
    rejections, names = Rejections(), list(rejected_files(storage, shard_ids).values())
    for rows in read_ahead(names, lambda name: read_rejected(storage, name, COLUMNS)):
        for example in _by_prompt(rows.to_pylist()):
            rejections.add(example)
    return rejections


def kind_of(reason: str) -> str:
    """The reason with `…` for every quoted value and number, so that prompts rejected by one rule share one kind."""
    unquoted = re.sub(r"(?<!\w)(['\"]).*\1(?!\w)", "…", reason)
    return re.sub(r"(?<!\w)-?\d[\d.,]*(?!\w)", "…", unquoted)


def _by_prompt(rows: list[dict[str, Any]]) -> list[RejectedExample]:
    """One example per prompt row and reason, also where each image of the row was rejected separately."""
    first: dict[tuple[int, str], dict[str, Any]] = {}
    num_images: Counter[tuple[int, str]] = Counter()
    for row in rows:
        key = (row["row"], row["reason"])
        first.setdefault(key, row)
        num_images[key] += row["num_images"]
    return [RejectedExample(**{**row, "num_images": num_images[key]}) for key, row in first.items()]
