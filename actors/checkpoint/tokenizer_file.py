"""Checks a tokenizer.json before the tokenizers library reads it: valid JSON, and no text that multiplies."""

from __future__ import annotations

from typing import Any

from actors.checkpoint.files import SmallFiles, read_json
from actors.errors import CheckpointError

# How many times as long as a prompt its normalized text may be. Unicode's own normal forms reach 18.
MAX_GROWTH = 64
_PRECOMPILED_GROWTH = 8.0  # a table of SentencePiece; those that are published stay below 4


def check_tokenizer_file(folder: SmallFiles) -> None:
    """Raise CheckpointError for a tokenizer.json that cannot be read, or that makes a short prompt very long."""
    growth = _largest_growth(read_json(folder, "tokenizer.json").get("normalizer"))
    if growth > MAX_GROWTH:
        raise CheckpointError(
            f"the normalizer in tokenizer.json of {folder.name} must make a text at most {MAX_GROWTH} times as long, "
            f"it makes one {growth:.3g} times as long"
        )


def _largest_growth(normalizer: Any) -> float:
    """By how much a normalizer of tokenizer.json may multiply the length of a text.

    Replacements that follow one another multiply: 40 of `a` by ten would need more memory than there is.
    """
    if not isinstance(normalizer, dict):
        return 1.0
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        growth = 1.0
        for part in parts:
            growth = min(growth * _largest_growth(part), 1e300)
        return growth
    content, pattern = normalizer.get("content"), normalizer.get("pattern")
    if not isinstance(content, str):
        return _PRECOMPILED_GROWTH if normalizer.get("type") == "Precompiled" else 1.0
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1.0, len(content) / len(replaced)) if replaced and isinstance(replaced, str) else 1.0 + len(content)
