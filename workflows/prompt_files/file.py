"""One prompt file, as the plan knows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from actors.errors import InputError, one_line
from workflows.storage.damage import damage_errors


class PromptsError(InputError):
    """Prompt files that a job cannot use: none match, one is no Parquet file, a column is missing or has the wrong
    type, or a file changed after the job was planned."""


@contextmanager
def prompt_errors(what: str) -> Iterator[None]:
    """Turn what pyarrow raises for a file that it cannot decode into a PromptsError or DamagedFileError."""
    with damage_errors(f"prompts: {what}"):
        try:
            yield
        except pa.ArrowNotImplementedError as error:
            detail = one_line(str(error))
            raise PromptsError(
                f"prompts: {what} cannot be read, pyarrow {pa.__version__} does not support it ({detail}); write the "
                "file with zstd or snappy and common types"
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class RowNumbers:
    """Numbers of selected rows, ascending: in the Parquet file at `url`, from its row `start` on."""

    url: str
    start: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFile:
    """One file of prompts, as its footer and its storage describe it.

    * `url` opens the file, `name` is its path below the prompt folder.
    * `version`: 8 hex digits that change when the content may have changed, see `workflows.prompt_files.version`.
    * `num_rows`: the rows to render. They are all `num_file_rows` of the file, unless there is a `selection`.
    * `converted`: the Parquet file with the same rows, if the file has another format.
    * `renamed`: (name in the file, name for the job) of columns.
    * `carried`: the columns that go to the manifest, with the types they have there; the same for all files of a job.
    * `read`: the columns that the job reads, in plain types; files may have different ones.
    * `hive_values`: the columns that the names of its folders set (`key=value`); None is null.
    * `row_bytes`: the size of the carried columns of a row, on average in the row group with the largest rows.
    * `reads_images`: whether the job that reads it looks at images, and so reads other columns.
    * `num_skipped`: empty lines of a text format, which are no rows.
    * `is_cut`: whether it was read up to the last row that a `limit` asks for, so that it may have more rows.
    """

    url: str
    name: str
    version: str
    num_bytes: int
    num_rows: int
    carried: pa.Schema = field(default_factory=lambda: pa.schema([]))
    read: pa.Schema = field(default_factory=lambda: pa.schema([]))
    hive_values: tuple[tuple[str, str | None], ...] = ()
    row_bytes: int = 0
    renamed: tuple[tuple[str, str], ...] = ()
    converted: str = ""
    reads_images: bool = False
    num_skipped: int = 0
    is_cut: bool = False
    num_file_rows: int | None = None
    selection: RowNumbers | None = None

    @property
    def rows_url(self) -> str:
        """The Parquet file that has the rows."""
        return self.converted or self.url

    @property
    def rows_version(self) -> str:
        """The version that this Parquet file must have; empty for one that is written once."""
        return "" if self.converted else self.version

    @property
    def has_ids(self) -> bool:
        """Whether its rows have ids of their own."""
        return "id" in self.read.names
