"""The limits of the places that datasets go to, checked before anything is written.

https://huggingface.co/docs/hub/storage-limits : files in a folder and in a repository. Object stores take 5 GB in one
request, and programs that copy between stores often no more.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.export.columns import convert, exported_schema
from workflows.export.inventory import Inventory
from workflows.export.layouts.layout import ExportError, ExportLayout
from workflows.export.layouts.table import EXPORT_LAYOUTS
from workflows.job import RenderJob
from workflows.plan import Plan

MAX_FILES_IN_FOLDER = 10_000
MAX_FILES = 100_000
MAX_FILE_BYTES = 5 * 10**9


def limits_of_export(layout: ExportLayout, inventory: Inventory, num_shards: int) -> list[str]:
    """What an export of this size exceeds, one line each with a layout that fits."""
    advice = "; --layout parquet or webdataset packs images into few files"
    if layout.files_per == "image":  # a folder for each shard
        folders = {"a folder": inventory.most_in_shard + 1, "one folder (its subfolders)": num_shards}
        num_files = inventory.num_images + num_shards
    elif layout.files_per == "prompt":
        folders = {"one folder": inventory.num_prompts}
        num_files = max(inventory.num_images, inventory.num_prompts)
    else:
        folders, num_files, advice = {"one folder": num_shards}, num_shards, "; render with a larger shard_rows"
    return list(_excesses(folders, num_files, advice))


def limits_of_job(job: RenderJob, plan: Plan, bytes_an_image: float) -> list[str]:
    """What the output of a job exceeds that is uploaded as it is, one line each."""
    layout, images_per_row = job.images.layout, job.recipe.images_per_row
    in_shard = min(job.shard_rows, plan.num_rows) * images_per_row
    num_shards = sum(-(-file.num_rows // job.shard_rows) for file in plan.files)
    if layout != "files":
        lines = list(_excesses({"manifest/": num_shards}, 2 * num_shards, "; raise shard_rows"))
        num_bytes = in_shard * bytes_an_image
        if num_bytes > MAX_FILE_BYTES:
            lines.append(
                f"a shard's pack takes about {num_bytes / 1e9:,.1f} GB, and many places take files up to "
                f"{MAX_FILE_BYTES / 1e9:g} GB; lower shard_rows"
            )
        return lines
    folders = {"a folder of images/": in_shard, "manifest/": num_shards}
    advice = "; images.layout parquet or webdataset packs the images of a shard into one file"
    return list(_excesses(folders, plan.num_images(images_per_row) + num_shards, advice))


def columns_that_exports_refuse(carried: pa.Schema, recipe: Recipe) -> list[str]:
    """What layouts for datasets cannot hold of the columns that the prompts carry to the manifest, one line each."""
    lines = []
    for name, layout in EXPORT_LAYOUTS.items():
        if not layout.has_columns or not layout.has_pixels or layout.is_local_only:
            continue  # benchmarks drop columns, and optional libraries may not be there
        try:
            schema = exported_schema(carried, [], is_json=layout.is_json)
            layout.check(recipe, schema)
            convert(pa.Table.from_batches([], carried), schema)
        except InputError as error:
            lines.append(f"export --layout {name} will refuse this output: {error}")
    return lines


def check_limits(lines: list[str], target: str) -> None:
    """Raise ExportError if an export that is uploaded to the hub exceeds a limit."""
    if lines:
        raise ExportError(f"--push-to {target}: {'; '.join(lines)}")


def bytes_text(number: float) -> str:
    """A number of bytes for people: `35.5 kB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:  # which is rounded to three digits
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _excesses(folders: dict[str, int], num_files: int, advice: str) -> Iterator[str]:
    for folder, number in folders.items():
        if number > MAX_FILES_IN_FOLDER:
            most = f"{MAX_FILES_IN_FOLDER:,} in a folder"
            yield f"{number:,} files in {folder}, and the Hugging Face hub takes {most}{advice}"
    if num_files > MAX_FILES:
        yield f"{num_files:,} files, and the Hugging Face hub takes about {MAX_FILES:,} in a repository{advice}"
