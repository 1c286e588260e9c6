"""Reads the Thrift structs of a Parquet footer.

pyarrow ends the process when it is asked for a column chunk that is encrypted or inconsistent, so the facts of column
chunks are read here. Format: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 32  # structs in structs; the footer's own nesting is 7 deep
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12


def read_struct(data: bytes) -> dict[int, Any]:
    """The struct at the beginning of `data`: values by field id. Raises ValueError for malformed data."""
    try:
        return _Reader(data).struct(0)
    except IndexError as error:
        raise ValueError("the Thrift data ends in the middle of a value") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > MAX_DEPTH:
            raise ValueError(f"Thrift structs are nested more than {MAX_DEPTH} deep")
        fields: dict[int, Any] = {}
        field_id = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 15
            field_id = field_id + delta if delta else self._integer()
            fields[field_id] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            return self._list(depth)
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        raise ValueError(f"the footer of a Parquet file has no Thrift values of kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        size, kind = header >> 4, header & 15
        size = self._unsigned() if size == 15 else size
        if size > len(self._data) - self._position:  # each value has at least one byte
            raise ValueError(f"a Thrift list of {size:,} values is longer than its data")
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _integer(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)

    def _unsigned(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise ValueError("a Thrift integer has more than 64 bits")

    def _byte(self) -> int:
        byte = self._data[self._position]
        self._position += 1
        return byte

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self._position:
            raise IndexError
        self._position += size
        return self._data[self._position - size : self._position]
