"""Exports of toy outputs for tests: finished jobs, the export itself, and what its files hold."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.toy_job import make_job, manifest_of, render, write_prompts
from workflows.export.write import Export, export_output
from workflows.job import Images, RenderJob
from workflows.output.claim import mark_success
from workflows.output.manifest import committed_parts
from workflows.output.parts import read_part
from workflows.scores.parts import Scorer, claim_scores, write_scores
from workflows.storage.store import Storage


def prompts_of(folder: Path, num: int = 6, **columns: Any) -> str:
    """Prompts with awkward ids, two of which are rejected."""
    ids = [f"p.{n}#?" if n % 2 else f"p{n}" for n in range(num)]
    texts = [f'prompt {n}, "quoted", ünïcode' + (" toy:nan" if n in (2, 5) else "") for n in range(num)]
    return write_prompts(folder / "prompts.parquet", {"id": ids, "prompt": texts, "kind": ["a"] * num, **columns})


def finished(job: RenderJob) -> RenderJob:
    """The job, rendered and marked as finished."""
    render(job)
    mark_success(job, 0, 0)
    return job


def finished_with(folder: Path, columns: dict[str, Any], **changes: Any) -> RenderJob:
    """A finished job of a prompt file with these columns, and prompts if there are none."""
    num_rows = len(next(iter(columns.values())))
    prompts = {"prompt": [f"prompt {n}" for n in range(num_rows)], **columns}
    return finished(make_job(write_prompts(folder / "prompts.parquet", prompts), folder / "out", **changes))


def finished_apart(folder: Path, first: pa.Array, second: pa.Array) -> RenderJob:
    """A finished job with two prompt files, whose manifest parts were edited: their columns `x` differ in type."""
    for name in ("a1", "b2"):
        columns = {"id": [name], "prompt": [name], "metadata": ["{}"]}
        write_prompts(folder / f"prompts/{name}.parquet", columns)
    job = finished(make_job(folder / "prompts", folder / "out"))
    for part, values in zip(sorted((folder / "out/manifest").iterdir()), (first, second), strict=True):
        table = pq.read_table(part)
        pq.write_table(table.append_column("x", values).replace_schema_metadata(table.schema.metadata), part)
    return job


def export(job: RenderJob, dest: Path | str, layout: str, **options: Any) -> Export:
    return export_output(Storage(job.output, job.storage), Storage(str(dest), job.storage), layout, **options)


def score(job: RenderJob, scorer: Scorer, **columns: Callable[[str], Any]) -> None:
    """Score every image of the job: each column is a function of the image's id."""
    storage = Storage(job.output, job.storage)
    claim_scores(storage, scorer)
    for part in committed_parts(storage):
        keys = read_part(storage, part, ["image_id", "image_sha256"])
        image_ids = keys["image_id"].to_pylist()
        for name, value_of in columns.items():
            keys = keys.append_column(name, pa.array([value_of(image_id) for image_id in image_ids]))
        write_scores(storage, scorer, part, keys)


def score_of(image_id: str) -> float:
    """A number from 0 to 1 that follows from the id."""
    return zlib.crc32(image_id.encode()) / 2**32


def load_splits(folder: Path) -> Any:
    """The export as `datasets` finds it by its card."""
    from datasets import load_dataset

    return load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


def load(kind: str, folder: Path) -> Any:
    """The export as Hugging Face `datasets` reads it."""
    from datasets import load_dataset

    where = {"data_dir": str(folder)} if kind == "imagefolder" else {"data_files": str(folder / "data/*.tar")}
    return load_dataset(kind, split="train", cache_dir=str(folder.parent / "cache"), **where)


def metadata_of(folder: Path) -> pa.Table:
    """The rows of an imagefolder export."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("metadata.parquet"))])


def pixels_of(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def rendered_pixels(job: RenderJob) -> dict[str, bytes]:
    """The pixels of each image by its id, from an output of the same prompts in layout files."""
    plain = dataclasses.replace(job, output=f"{job.output}-plain", images=Images(layout="files"))
    render(plain)
    return {row["image_id"]: pixels_of((Path(plain.output) / row["image"]).read_bytes()) for row in manifest_of(plain)}


def change_manifest(job: RenderJob, column: str, values: pa.Array) -> None:
    """Replace a column of the job's only manifest part, as an edit by hand would."""
    [part] = (Path(job.output) / "manifest").iterdir()
    table = pq.read_table(part)
    changed = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), part)
