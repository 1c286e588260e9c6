"""The type of a CSV column: the first of whole numbers, numbers and booleans that holds every value, else text."""

from __future__ import annotations

from bisect import bisect_left

import pyarrow as pa
import pyarrow.compute as pc

# A value has a type only if the type gives it back as it is written: 007 is text, and so are a number of 20 digits and
# 1e999, which would become infinite.
_NUMBERS = (
    (pa.int64(), r"^(0|-?[1-9][0-9]{0,18})$"),
    (pa.uint64(), r"^(0|[1-9][0-9]{0,19})$"),
    (pa.float64(), r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"),
)
_KINDS = (*_NUMBERS, (pa.bool_(), r"^(true|false|True|False|TRUE|FALSE)$"))
_ZERO = r"^-?0(\.0+)?([eE].*)?$"


class TypeGuess:
    """The types that all values so far have, narrowest first. `is_text`, `is_number`: the job takes nothing else."""

    def __init__(self, *, is_text: bool = False, is_number: bool = False) -> None:
        self._left: tuple[tuple[pa.DataType, str], ...] = () if is_text else _NUMBERS if is_number else _KINDS
        self._has_value, self._is_number = is_text, is_number

    def narrow(self, values: pa.Array) -> int | None:
        """Drop the types that one of these values, an array of text, does not have.

        Returns the position of the first value that is no number in a column of numbers.
        """
        if values.null_count == len(values):
            return None
        self._has_value = True
        before, self._left = self._left, _types_of(values, self._left)
        if self._left or not self._is_number:
            return None
        # The more values, the fewer types they have: found in a few passes.
        return bisect_left(range(len(values)), True, key=lambda last: not _types_of(values[: last + 1], before))

    @property
    def kind(self) -> pa.DataType:
        """Null for a column without any value."""
        if not self._has_value:
            return pa.null()
        return self._left[0][0] if self._left else pa.string()


def typed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text as values of the type of its column."""
    return pa.nulls(len(values)) if pa.types.is_null(kind) else values.cast(kind)


def _types_of(values: pa.Array, kinds: tuple[tuple[pa.DataType, str], ...]) -> tuple[tuple[pa.DataType, str], ...]:
    """Those of the types that all values have."""
    return tuple((kind, pattern) for kind, pattern in kinds if _all_are(values, kind, pattern))


def _all_are(values: pa.Array, kind: pa.DataType, pattern: str) -> bool:
    if not pc.all(pc.match_substring_regex(values, pattern)).as_py():
        return False
    try:
        cast = values.cast(kind)
    except pa.ArrowInvalid:  # too large
        return False
    if not pa.types.is_floating(kind):
        return True
    is_right = pc.if_else(pc.equal(cast, 0), pc.match_substring_regex(values, _ZERO), pc.is_finite(cast))
    return bool(pc.all(is_right).as_py())
