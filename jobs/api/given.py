"""The prompts that a Python program gives: a location, texts, or rows in any form that becomes an Arrow table."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from actors.errors import InputError, one_line, shown
from workflows.output.given_prompts import prompt_table
from workflows.prompt_files.file import PromptsError
from workflows.storage.path import absolute_location, is_local

ALLOWED = (
    "prompts are a list of texts, rows (a list of dicts, a data frame, an Arrow table), or the path or URL of prompt "
    "files"
)


def given_prompts(prompts: Any) -> str | pa.Table:
    """The location of prompt files, or the rows themselves. Raises InputError."""
    if isinstance(prompts, str | os.PathLike):
        return _location(os.fspath(prompts))
    try:
        table = _table(prompts)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = one_line(str(error) if isinstance(error, UnicodeError) else "; ".join(map(str, error.args)))
        raise PromptsError(f"prompts: these are no rows ({reason}); {ALLOWED}") from error
    return table.replace_schema_metadata(None)


def _location(location: Any) -> str:
    """A path or URL. A path to nothing is most likely a prompt."""
    if not isinstance(location, str):
        raise PromptsError(f"prompts: a path must be text, got bytes; {ALLOWED}")
    path = absolute_location(location, "prompts")
    if is_local(path) and not os.path.lexists(path) and not glob.has_magic(path):
        raise PromptsError(
            f"prompts: there is no file or folder {one_line(path)}. A str is a path or URL; give prompts as a list: "
            f"prompts=[{one_line(location)!r}]"
        )
    return location


def _table(prompts: Any) -> pa.Table:
    if isinstance(prompts, pa.Table):
        return prompts
    if isinstance(prompts, pa.Array | pa.ChunkedArray):
        return pa.table({"prompt": prompts})
    if type(prompts).__module__.partition(".")[0] == "pandas" and hasattr(prompts, "columns"):
        has_names = any(name is not None for name in prompts.index.names)  # an index without a name counts rows
        return pa.Table.from_pandas(prompts, preserve_index=has_names)
    if isinstance(prompts, Mapping):
        return pa.table({name: _column(name, values) for name, values in prompts.items()})
    is_series = hasattr(prompts, "name") and hasattr(prompts, "to_list")
    if (hasattr(prompts, "__arrow_c_stream__") and not is_series) or isinstance(prompts, pa.RecordBatch):
        return pa.table(prompts)
    if isinstance(prompts, set | frozenset):
        raise PromptsError(f"prompts: got a set, which has no order, and ids come from the order; {ALLOWED}")
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise PromptsError(f"prompts: got {type(prompts).__name__}; {ALLOWED}")
    return _table_of_items(list(prompts))


def _column(name: Any, values: Any) -> pa.Array:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):  # the items of a text are characters
        raise PromptsError(f"prompts: column {one_line(str(name))} must be a list, got {shown(values)}")
    return _array(name, list(values))


def _table_of_items(items: list[Any]) -> pa.Table:
    """Texts, or rows as mappings; a row without one of the columns has null there."""
    are_rows = any(isinstance(item, Mapping) for item in items[:1])
    for number, item in enumerate(items, 1):
        if not (isinstance(item, Mapping) if are_rows else item is None or isinstance(item, str)):
            raise PromptsError(
                f"prompts: item {number} is {type(item).__name__}; a list holds texts only, or dicts only, with the "
                "keys prompt, id, seed and so on"
            )
    if not are_rows:
        return prompt_table(items)
    names = dict.fromkeys(name for item in items for name in item)
    return pa.table({str(name): _array(name, [item.get(name) for item in items]) for name in names})


def _array(name: Any, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError) as error:
        raise PromptsError(
            f"prompts: column {one_line(str(name))} has values of more than one type ({one_line(str(error))})"
        ) from error
