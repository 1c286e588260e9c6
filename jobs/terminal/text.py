"""A number of things in words."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """`1 shard`, `1,204 shards`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
