"""The rows of a prompt file as the job sees them: its columns by the job's names, the carried ones in their types."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from workflows.prompt_files.columns import column_types, hive_type, job_names
from workflows.prompt_files.conform import conform, without_view
from workflows.prompt_files.file import PromptFile


def job_view(file: PromptFile, batch: pa.RecordBatch, positions: np.ndarray | None = None) -> pa.RecordBatch:
    """The columns that the job reads, as they are, and every carried column in its type; all rows, or some."""
    batch = renamed(batch, file)
    known = column_types(reads_images=file.reads_images)
    read = [name for name in known if name in batch.schema.names or name in dict(file.hive_values)]
    columns = {name: view_column(file, batch, name) for name in [*read, *file.carried.names]}
    # Copied: Ray would ship a slice together with the whole batch.
    rows = np.arange(len(batch)) if positions is None else positions
    return pa.record_batch(columns).take(pa.array(rows, pa.int64()))


def view_column(file: PromptFile, batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column of a batch by the job's name. A column that neither the file nor its folders have is null."""
    hive_values = dict(file.hive_values)
    if name in file.carried.names:
        kind = file.carried.field(name).type
        if name in batch.schema.names:
            return conform(batch[name], kind)
        return _repeated(hive_values.get(name), len(batch), kind)
    if name in hive_values:
        return _repeated(hive_values[name], len(batch), hive_type(name, [hive_values[name]]))
    return without_view(batch[name]) if name in batch.schema.names else pa.nulls(len(batch))


def renamed(batch: pa.RecordBatch, file: PromptFile) -> pa.RecordBatch:
    """The batch with the job's names. A column whose name the job gives to another one is left out."""
    if not file.renamed:
        return batch
    return pa.record_batch(
        {name: batch[written] for name, written in job_names(batch.schema.names, file.renamed).items()}
    )


def _repeated(value: str | None, length: int, kind: pa.DataType) -> pa.Array:
    if value is None:
        return pa.nulls(length, kind)
    return pa.repeat(pa.scalar(value).cast(kind), length)
