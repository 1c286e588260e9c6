"""Ids for job servers, made from the names of jobs."""

from __future__ import annotations

import hashlib
import re


def plain_id(name: str) -> str:
    """A submission id of ASCII letters, digits and hyphens. Names that differ in other characters get different ids."""
    plain = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
