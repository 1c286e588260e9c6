"""A condition on rows, such as `category = 'Animals' and length(prompt) < 200`: a DuckDB expression over Arrow columns.

It is checked against a schema before any row is read. It sees the rows and nothing else: no files, no settings, no
clock. The same rows therefore give the same answer on every machine and in every run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.errors import InputError, one_line, reason_line

if TYPE_CHECKING:  # loaded when the first filter is compiled: most jobs have none
    import duckdb

MAX_DEPTH = 100  # of nested expressions
MAX_LISTED = 100  # columns in an error message: a manifest has fifty of its own

# Classes of DuckDB's syntax tree that compute from the row alone. Others are subqueries, windows, stars, parameters.
_ALLOWED_CLASSES = {
    *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR"),
    *("FUNCTION", "CASE", "BETWEEN", "CAST", "COLLATE", "LAMBDA", "TYPE"),
}
# Functions of the clock or of the session. DuckDB counts them as consistent within one query.
_UNSTABLE = {
    *("age", "ago", "now", "today", "get_current_time", "get_current_timestamp", "transaction_timestamp"),
    *("current_date", "current_time", "current_timestamp", "current_localtime", "current_localtimestamp"),
    *("localtime", "localtimestamp", "txid_current", "current_setting", "getvariable", "in_search_path"),
    *("current_database", "current_catalog", "current_schema", "current_schemas", "current_user", "current_role"),
    *("session_user", "user", "version", "get_block_size"),
}


class RowFilterError(InputError):
    """A condition that is no single boolean expression over the columns there are, or that fails on a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFilter:
    """A checked condition. `name` is what the user calls it in messages; `columns` are those that it reads."""

    name: str
    text: str
    columns: tuple[str, ...]

    def mask(self, rows: pa.Table | pa.RecordBatch) -> pa.BooleanArray:
        """True for each row that meets the condition; false where it is null. Raises RowFilterError if it fails.

        `rows` must have the columns of the schema that the condition was compiled with.
        """
        import duckdb

        arrays = [rows.column(name) for name in self.columns]
        number = pa.array(np.arange(rows.num_rows))  # a table needs a column, and DuckDB may filter in any order
        table = pa.table([*arrays, number], names=[*self.columns, self._number_column])
        query = f"SELECT {_quoted(self._number_column)} FROM rows WHERE ({self.text}\n)"
        with _database().cursor() as session:
            session.register("rows", table)
            try:
                selected = session.sql(query).to_arrow_table().column(0)
            except duckdb.Error as error:
                raise RowFilterError(f"{self.name}: fails on a row: {_reason(error)}") from error
        mask = np.zeros(rows.num_rows, dtype=bool)
        mask[selected.to_numpy()] = True
        return pa.array(mask)

    @property
    def _number_column(self) -> str:
        """A name that no column has: longer than all of them."""
        return "_" * (1 + max(map(len, self.columns), default=0))


def compile_filter(
    text: str, schema: pa.Schema, *, name: str = "where", advice: Callable[[str], str] = lambda column: ""
) -> RowFilter:
    """Check a condition against the columns of a schema. Raises RowFilterError, in one line that begins with `name`.

    `advice` ends the sentence about a column that there is not.
    """
    import duckdb

    expression = _parse(text, name)
    columns = tuple(dict.fromkeys(_check_tree(expression, schema.names, name, advice)))
    _check_case(columns, name)
    table = pa.table([_empty_column(schema.field(schema.get_field_index(column)), name) for column in columns], columns)
    with _database().cursor() as session:
        session.register("rows", table if columns else pa.table({"_": pa.array([], pa.int8())}))
        try:
            kind = str(session.sql(f"SELECT ({text}\n) FROM rows WHERE ({text}\n)").types[0])
        except duckdb.Error as error:
            raise RowFilterError(f"{name}: {_reason(error)}, got {one_line(text)}") from error
    if kind != "BOOLEAN":
        raise RowFilterError(
            f"{name}: must be a condition, which is true or false for a row; {one_line(text)} has the type {kind}"
        )
    return RowFilter(name=name, text=text, columns=columns)


def _empty_column(field: pa.Field, name: str) -> pa.Array:
    """No values of a column's type. Raises RowFilterError for a type that DuckDB does not read, such as half floats."""
    import duckdb

    try:
        column = pa.schema([field]).empty_table().column(0)
        with _database().cursor() as session:
            session.register("rows", pa.table([column], ["column"]))
    except (duckdb.Error, NotImplementedError) as error:
        raise RowFilterError(
            f"{name}: cannot read column {one_line(field.name)}, whose type is {one_line(str(field.type))}"
        ) from error
    return column


def _parse(text: str, name: str) -> dict[str, Any]:
    """The syntax tree of a single expression."""
    import duckdb

    rule = f'{name}: must be one SQL condition over the columns, such as "length(prompt) < 200"'
    if not text.strip():
        raise RowFilterError(f"{rule}, got an empty one")
    try:
        with _database().cursor() as session:
            row = session.execute("SELECT json_serialize_sql(?)", [f"SELECT {text}"]).fetchone()
        tree = json.loads(row[0]) if row else {}
    except (duckdb.Error, RecursionError) as error:
        raise RowFilterError(f"{rule}; {_reason(error)}, got {one_line(text)}") from error
    if tree["error"]:
        raise RowFilterError(f"{rule}; {one_line(tree['error_message'])}, got {one_line(text)}")
    nodes = [statement["node"] for statement in tree["statements"]]
    if len(nodes) != 1 or not _is_one_expression(nodes[0]):
        raise RowFilterError(f"{rule}, without FROM, WHERE, AS or a second statement, got {one_line(text)}")
    expression: dict[str, Any] = nodes[0]["select_list"][0]
    return expression


def _is_one_expression(node: dict[str, Any]) -> bool:
    """Whether a statement is `SELECT expression` and has no other clause."""
    if node["type"] != "SELECT_NODE" or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
        return False
    clauses = ("where_clause", "group_expressions", "group_sets", "having", "qualify", "sample", "modifiers")
    return node["from_table"]["type"] == "EMPTY" and not any(node[clause] for clause in clauses)


def _check_tree(expression: dict[str, Any], names: list[str], name: str, advice: Callable[[str], str]) -> Iterator[str]:
    """The columns that an expression reads. Raises RowFilterError for a part that depends on more than the row."""
    remaining: list[tuple[Any, frozenset[str]]] = [(expression, frozenset())]  # with the parameters of lambdas around
    while remaining:
        node, parameters = remaining.pop()
        if isinstance(node, dict):
            match node.get("class"):
                case "COLUMN_REF":
                    if node["column_names"][0] not in parameters:
                        yield _column(node["column_names"][0], names, name, advice)
                case "FUNCTION":
                    _check_function(node["function_name"].lower(), name)
                case "LAMBDA":  # or the JSON operator ->, whose left side is a column
                    parameters |= _parameters(node["lhs"], names)
                case None:
                    pass
                case kind if kind not in _ALLOWED_CLASSES:
                    raise RowFilterError(
                        f"{name}: computes from the columns of one row, without {kind.lower().replace('_', ' ')}"
                    )
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        remaining.extend((child, parameters) for child in children)


def _parameters(node: Any, names: list[str]) -> frozenset[str]:
    """The parameters on the left side of a lambda."""
    if isinstance(node, list):
        return frozenset().union(*(_parameters(child, names) for child in node))
    if not isinstance(node, dict):
        return frozenset()
    if node.get("class") == "COLUMN_REF":
        return frozenset(node["column_names"][:1]) - frozenset(names)
    return _parameters(list(node.values()), names)


def _column(written: str, names: list[str], name: str, advice: Callable[[str], str]) -> str:
    """The column that an expression names: as in SQL, the case of letters does not matter."""
    if written in names:
        return written
    alike = [column for column in names if column.lower() == written.lower()]
    if len(alike) == 1:
        return alike[0]
    if not alike and written.lower() in _UNSTABLE:
        _check_function(written.lower(), name)
    rule = "matches several columns" if alike else f"is no column (text is in 'single quotes'){advice(written)}"
    raise RowFilterError(f"{name}: {one_line(written)} {rule}; the columns are {listed(alike or names)}")


def listed(names: Sequence[str]) -> str:
    """The names of columns for an error message; of very many, the first."""
    more = f" and {len(names) - MAX_LISTED:,} more" * (len(names) > MAX_LISTED)
    return ", ".join(map(one_line, names[:MAX_LISTED])) + more


def _check_case(columns: tuple[str, ...], name: str) -> None:
    """Refuse columns that DuckDB cannot tell apart."""
    if len({column.lower() for column in columns}) < len(columns):
        raise RowFilterError(f"{name}: the names of columns must differ in more than case, got {', '.join(columns)}")


def _check_function(function: str, name: str) -> None:
    if function in _UNSTABLE or function in _volatile_functions():
        raise RowFilterError(
            f"{name}: {one_line(function)} depends on more than the row, and the same rows must be selected every time"
        )


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _reason(error: BaseException) -> str:
    """The first line of one of DuckDB's errors, without its kind."""
    line = reason_line(error)
    kind, _, text = line.partition(" Error: ")
    return text if text and " " not in kind.strip() else line


@functools.cache
def _database() -> duckdb.DuckDBPyConnection:
    """An empty database in memory that reaches neither files nor Python variables, and loads no extensions."""
    import duckdb

    database = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    database.execute(f"SET max_expression_depth = {MAX_DEPTH}")
    database.execute("SET python_enable_replacements = false")
    database.execute("SET TimeZone = 'UTC'")  # the days of moments are the same on every machine
    database.execute("SET lock_configuration = true")
    return database


@functools.cache
def _volatile_functions() -> frozenset[str]:
    """The functions with another value at every call, and those that describe the database."""
    query = (
        "SELECT DISTINCT function_name FROM duckdb_functions() "
        "WHERE stability = 'VOLATILE' OR (function_type = 'macro' AND schema_name = 'pg_catalog')"
    )
    with _database().cursor() as session:
        return frozenset(name for (name,) in session.execute(query).fetchall())
