"""The WebDataset layout: tar files of a few hundred megabytes, with the files of a sample next to each other.

https://github.com/webdataset/webdataset : a sample's files share the name up to the first dot.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterable, Iterator

import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.chunks import chunks_of_bytes, count_of
from workflows.export.layouts.layout import ExportLayout, Place, Written, pattern_of
from workflows.output.layouts import location

MAX_TAR_BYTES = 256 * 2**20  # held in memory; about a thousand PNG images


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`data/<shard>-<number>.tar` with `<image id>.png`, `.txt` (prompt) and `.json` (manifest row) for each image."""
    written, prompt_ids = Written(), set[str]()
    for number, chunk in enumerate(chunks_of_bytes(images, MAX_TAR_BYTES)):
        place.write(f"{place.data_folder}{place.shard_id}-{number:03d}.tar", _tar_bytes(chunk))
        prompt_ids |= {image.prompt_id for image in chunk}
        written += count_of(chunk, num_files=1)
    return written + Written(num_prompts=len(prompt_ids))


def _tar_bytes(images: Iterable[ExportImage]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for image in images:
            key = location("webdataset", "shard", image.image_id, "").partition("#")[2]  # ends in its dot
            files = {image.extension: image.data, "txt": image.prompt.encode(), "json": _json_bytes(image)}
            for extension, data in files.items():
                member = tarfile.TarInfo(f"{key}{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _json_bytes(image: ExportImage) -> bytes:
    """The row as JSON, with base64 for bytes. The types of `workflows.export.columns` leave no NaN in it.

    Null text becomes empty text: `datasets` takes the type of a column from the first samples, and that of null fits no
    text that follows.
    """
    [row] = image.record.to_pylist()
    for field in image.record.schema:
        if row[field.name] is None and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            row[field.name] = ""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_base64).encode()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


WEBDATASET = ExportLayout(
    write=_write,
    is_json=True,
    pattern=pattern_of("tar"),
    how_to_read=(
        "python",
        'import glob\nimport webdataset\npaths = sorted(glob.glob("DEST/data/**/*.tar", recursive=True))\n'
        'webdataset.WebDataset(paths, shardshuffle=False).decode("pil")',
    ),
)
