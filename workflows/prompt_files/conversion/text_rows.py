"""Plain text: one prompt a line. Empty lines are skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from workflows.prompt_files.conversion.lines import Lines, chunked


class TextRows:
    """The rows of a text file. `num_skipped` counts the empty lines once all batches are read."""

    schema = pa.schema([("prompt", pa.string())])

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.num_skipped = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._lines() as lines:
            for chunk in chunked(self._prompts(lines), len):
                yield pa.record_batch([pa.array(chunk, pa.string())], schema=self.schema)

    def _prompts(self, lines: Iterator[tuple[int, str]]) -> Iterator[str]:
        for _, line in lines:
            prompt = line.rstrip("\r\n")
            if prompt.strip():
                yield prompt
            else:
                self.num_skipped += 1
