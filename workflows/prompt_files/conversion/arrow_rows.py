"""Arrow files: the streams that `datasets` saves to disk, and Feather files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

import pyarrow as pa
from pyarrow import ipc

from actors.errors import one_line
from workflows.prompt_files.column_types import TypeConflictError, plain_type
from workflows.prompt_files.conform import conform
from workflows.prompt_files.file import PromptsError, prompt_errors

_FILE_MAGIC = b"ARROW1"
BATCH_BYTES = 8 * 2**20


class ArrowRows:
    """The rows of an Arrow file."""

    num_skipped = 0

    def __init__(self, url: str, opened: Callable[[], AbstractContextManager[IO[bytes]]]) -> None:
        self._url, self._opened = url, opened

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns in plain types. Raises PromptsError and DamagedFileError."""
        with self._read() as (schema, _):
            try:
                return pa.schema([(field.name, plain_type(field.type)) for field in schema])
            except TypeConflictError as error:
                raise PromptsError(f"prompts: {self._url} cannot be converted: {one_line(str(error))}") from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = self.schema
        with self._read() as (_, batches):
            for batch in batches:
                rows = max(1, int(len(batch) * BATCH_BYTES / max(batch.nbytes, 1)))
                for start in range(0, len(batch), rows):
                    part = batch.slice(start, rows)
                    columns = [conform(column, field.type) for column, field in zip(part.columns, schema, strict=True)]
                    yield pa.record_batch(columns, schema=schema)

    @contextmanager
    def _read(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with self._opened() as file, prompt_errors(self._url):
            is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            file.seek(0)
            if is_file:
                reader = ipc.open_file(file)
                yield reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                stream = ipc.open_stream(file)
                yield stream.schema, iter(stream)
