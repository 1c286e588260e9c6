"""A row of the table. No torch: the process that prints the table imports none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement. `limit` is the best that the device allows, in the same unit, or None where there is no limit.

    A unit that ends in `/s` is better the larger it is, all others the smaller. `is_ok` is False if bytes differ.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""
    is_ok: bool = True

    @property
    def share(self) -> float | None:
        """The share of the limit that is reached."""
        if not self.limit or not self.value:
            return None
        return self.value / self.limit if self.unit.endswith("/s") else self.limit / self.value

    def to_markdown(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:.3g}"
        share = "" if self.share is None else f"{self.share:.0%}"
        note = self.note if self.is_ok else f"**FAILED** {self.note}"
        return f"| {self.name} | {self.value:.4g} {self.unit} | {limit} | {share} | {note} |"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


HEAD = "| measurement | measured | limit | reached | |\n|:--|--:|--:|--:|:--|"
