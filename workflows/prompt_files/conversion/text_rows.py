"""Plain text: one prompt a line. Empty lines are skipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa

from workflows.prompt_files.conversion.lines import TextFile, chunked


class TextRows:
    """The rows of a text file, or the first `num_rows`. `num_skipped` counts the empty lines once all are read."""

    schema = pa.schema([("prompt", pa.string())])

    def __init__(self, text: TextFile, *, num_rows: int | None) -> None:
        self._text, self._num_rows = text, num_rows
        self.num_skipped = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._text.lines() as lines:
            for chunk in chunked(itertools.islice(self._prompts(lines), self._num_rows), len):
                yield pa.record_batch([pa.array(chunk, pa.string())], schema=self.schema)

    def _prompts(self, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
        for _, line in lines:
            prompt = line.rstrip("\r\n")
            if prompt.strip():
                yield prompt
            else:
                self.num_skipped += 1
