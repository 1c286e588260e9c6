"""The type of a CSV column: the first of whole numbers, numbers and booleans that holds every value, else text."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

# A value has a type only if the type gives it back as it is written: 007 is text, and so is a number of 20 digits.
_KINDS = (
    (pa.int64(), r"^(0|-?[1-9][0-9]{0,18})$"),
    (pa.uint64(), r"^(0|[1-9][0-9]{0,19})$"),
    (pa.float64(), r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"),
    (pa.bool_(), r"^(true|false|True|False|TRUE|FALSE)$"),
)


class TypeGuess:
    """The types that all values so far have, narrowest first."""

    def __init__(self, *, is_text: bool) -> None:
        self._left: tuple[tuple[pa.DataType, str], ...] = () if is_text else _KINDS
        self._has_value = is_text

    def narrow(self, values: pa.Array) -> None:
        """Drop the types that one of these values, an array of text, does not have."""
        if values.null_count < len(values):
            self._has_value = True
            self._left = tuple((kind, pattern) for kind, pattern in self._left if _all_are(values, kind, pattern))

    @property
    def kind(self) -> pa.DataType:
        """Null for a column without any value."""
        if not self._has_value:
            return pa.null()
        return self._left[0][0] if self._left else pa.string()


def typed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as values of the type of its column."""
    return pa.nulls(len(values)) if pa.types.is_null(kind) else values.cast(kind)


def _all_are(values: pa.Array, kind: pa.DataType, pattern: str) -> bool:
    if not pc.all(pc.match_substring_regex(values, pattern)).as_py():
        return False
    try:
        values.cast(kind)
    except pa.ArrowInvalid:  # too large
        return False
    return True
