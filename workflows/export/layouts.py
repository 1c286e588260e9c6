"""The layouts an output is exported to: each writes the images of one shard, as the program it is named for reads them.

Every file is put in place whole, and written again it is the same file.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from PIL import Image

from actors.errors import InputError
from actors.recipe import Recipe
from workflows.export.images import LEFT_OUT, ExportImage, as_exported
from workflows.output.layouts import location, parquet_bytes
from workflows.storage.store import Storage

NUM_WRITERS = 16
MAX_TAR_BYTES = 256 * 2**20  # held in memory; about a thousand PNG pictures
GRID_SIZES = (1, 4)  # pictures of one file of DPG-Bench: alone, or two by two


class ExportError(InputError):
    """The output is not complete or not fit for the layout, or the destination is not ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Counts of what an export holds. `num_left_out` images stand in no file: their prompt lacks others of its grid."""

    num_images: int = 0
    num_prompts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_left_out: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(**{key: value + getattr(other, key) for key, value in asdict(self).items()})

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Written:
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportLayout:
    """`check` refuses a job whose output cannot have this layout, before anything is written. `pattern` are the data
    files as a dataset card names them, None where the folder is no dataset of Hugging Face. `wants_whole_prompts`: the
    images of a prompt are written together, those of retries among them."""

    check: Callable[[Recipe, pa.Schema], None]
    write: Callable[[Storage, str, Iterator[ExportImage], pa.Schema, Recipe], Written]
    pattern: str | None
    wants_whole_prompts: bool = False


def write_imagefolder(
    dest: Storage, shard_id: str, images: Iterator[ExportImage], schema: pa.Schema, recipe: Recipe
) -> Written:
    """`train/<shard>/<image id>.png` and, beside them and last, `metadata.parquet` with a row for each."""
    rows, written = [], Written()
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for chunk in _chunks(images, 4 * NUM_WRITERS):
            names = [_file_name(image, recipe) for image in chunk]
            paths = [f"train/{shard_id}/{name}" for name in names]
            list(writers.map(dest.write, paths, [image.data for image in chunk]))
            rows += [{"file_name": name, **image.row} for name, image in zip(names, chunk, strict=True)]
            written += _written(chunk, num_files=len(chunk))
    kind = pa.schema([("file_name", pa.string()), *_columns(schema)])
    dest.write(f"train/{shard_id}/metadata.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=kind)))
    return written + Written(num_prompts=_num_prompts(rows), num_files=1)


def write_webdataset(
    dest: Storage, shard_id: str, images: Iterator[ExportImage], schema: pa.Schema, recipe: Recipe
) -> Written:
    """`data/<shard>-<part>.tar` with `<image id>.png`, `.txt` (the prompt) and `.json` (the manifest row) for each."""
    written, prompts = Written(), []
    for part, chunk in enumerate(_chunks_of_bytes(images, MAX_TAR_BYTES)):
        data = _tar_bytes(chunk)
        dest.write(f"data/{shard_id}-{part:03d}.tar", data)
        prompts += [image.row for image in chunk]
        written += _written(chunk, num_files=1)
    return written + Written(num_prompts=_num_prompts(prompts))


def write_geneval(
    dest: Storage, shard_id: str, images: Iterator[ExportImage], schema: pa.Schema, recipe: Recipe
) -> Written:
    """`00000/metadata.jsonl` and `00000/samples/0000.png`; in a sweep below `w<weight>/`."""
    written, rows = Written(), []
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for chunk in _chunks(images, 4 * NUM_WRITERS):
            folders = {_prompt_folder(image.row, recipe): image.row["metadata"] for image in chunk}
            texts = [f"{_one_line(metadata)}\n".encode() for metadata in folders.values()]
            list(writers.map(dest.write, [f"{folder}/metadata.jsonl" for folder in folders], texts))
            paths = [f"{_prompt_folder(i.row, recipe)}/samples/{i.row['image_index']:04d}.png" for i in chunk]
            list(writers.map(dest.write, paths, map(_png_bytes, chunk)))
            written += _written(chunk, num_files=len(chunk))
            rows += [
                {"prompt_id": image.row["prompt_id"], "folder": _prompt_folder(image.row, recipe)} for image in chunk
            ]
    num_folders = len({row["folder"] for row in rows})
    return written + Written(num_prompts=_num_prompts(rows), num_files=num_folders)


def write_dpg(
    dest: Storage, shard_id: str, images: Iterator[ExportImage], schema: pa.Schema, recipe: Recipe
) -> Written:
    """`images/<prompt id>.png`: the prompt's four pictures two by two in the order of their index; in a sweep below
    `w<weight>/`. A prompt that lacks a picture gets no grid, for an empty part would be judged."""
    written = Written()
    for prompt_id, of_prompt in itertools.groupby(images, key=lambda image: image.row["prompt_id"]):
        by_weight: dict[float, list[ExportImage]] = {}
        for image in of_prompt:
            by_weight.setdefault(image.row["cfg_weight"], []).append(image)
        for weight, pictures in by_weight.items():
            if len(pictures) != recipe.images_per_prompt:
                written += Written(num_left_out=len(pictures))
                continue
            if not re.fullmatch(r"[^.]+", prompt_id):
                raise ExportError(
                    f"dpg: a prompt id names a file up to its first dot and may hold none, got {prompt_id!r}"
                )
            data = _grid_bytes(sorted(pictures, key=lambda image: image.row["image_index"]))
            dest.write(f"{_weight_folder(weight, recipe)}images/{prompt_id}.png", data)
            written += Written(num_images=len(pictures), num_files=1, num_bytes=len(data))
        written += Written(num_prompts=1)
    return written


def _take_any(recipe: Recipe, schema: pa.Schema) -> None:
    """A dataset may hold whatever a job made."""


def _check_geneval(recipe: Recipe, schema: pa.Schema) -> None:
    if "metadata" not in schema.names:
        raise ExportError(
            "geneval: the prompts need a column `metadata` (the prompt's line of GenEval's evaluation_metadata.jsonl), "
            f"the output carries {', '.join(schema.names)}. `python -m examples.recipes.convert_prompts` makes it"
        )


def _check_dpg(recipe: Recipe, schema: pa.Schema) -> None:
    if recipe.images_per_prompt not in GRID_SIZES:
        raise ExportError(f"dpg: sampling.images_per_prompt must be 4 (a grid) or 1, got {recipe.images_per_prompt}")


EXPORT_LAYOUTS = {
    "imagefolder": ExportLayout(check=_take_any, write=write_imagefolder, pattern="train/**"),
    "webdataset": ExportLayout(check=_take_any, write=write_webdataset, pattern="data/*.tar"),
    "geneval": ExportLayout(check=_check_geneval, write=write_geneval, pattern=None),
    "dpg": ExportLayout(check=_check_dpg, write=write_dpg, pattern=None, wants_whole_prompts=True),
}


# ---- names ---------------------------------------------------------------------------------------------------------


def _file_name(image: ExportImage, recipe: Recipe) -> str:
    return location("files", "shard", image.row["image_id"], image.extension).rpartition("/")[2]


def _weight_folder(weight: float, recipe: Recipe) -> str:
    return f"w{weight:g}/" if len(recipe.cfg_weights) > 1 else ""


def _prompt_folder(row: dict[str, Any], recipe: Recipe) -> str:
    """GenEval reads folders whose names are numbers: the one that the prompt's id ends in."""
    number = re.search(r"\d+$", row["prompt_id"])
    if number is None:
        raise ExportError(f"geneval: a prompt id must end in the prompt's number, got {row['prompt_id']!r}")
    return f"{_weight_folder(row['cfg_weight'], recipe)}{int(number[0]):05d}"


def _one_line(metadata: str | None) -> str:
    """The prompt's metadata as one line of JSON."""
    try:
        return json.dumps(json.loads(metadata or ""), ensure_ascii=False)
    except ValueError as error:
        raise ExportError(f"geneval: column `metadata` must hold JSON, got {metadata!r}") from error


# ---- contents ------------------------------------------------------------------------------------------------------


def _columns(schema: pa.Schema) -> list[pa.Field]:
    return [as_exported(field) for field in schema if field.name not in LEFT_OUT]


def _tar_bytes(images: Iterable[ExportImage]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for image in images:
            key = location("webdataset", "shard", image.row["image_id"], "").partition("#")[2]
            text = json.dumps(image.row, ensure_ascii=False, default=_json_text)
            files = {image.extension: image.data, "txt": image.row["prompt"].encode(), "json": text.encode()}
            for extension, data in files.items():
                member = tarfile.TarInfo(f"{key}{extension}")  # the key ends in its dot
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _json_text(value: Any) -> str:
    """What JSON has no form for: moments, and whatever else a prompt file's columns hold."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _png_bytes(image: ExportImage) -> bytes:
    if image.extension == "png":
        return image.data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image.data)) as picture:
        picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _grid_bytes(images: list[ExportImage]) -> bytes:
    """One picture as it is, four two by two in reading order."""
    if len(images) == 1:
        return _png_bytes(images[0])
    pictures = [Image.open(io.BytesIO(image.data)).convert("RGB") for image in images]
    width, height = pictures[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for index, picture in enumerate(pictures):
        grid.paste(picture, (index % 2 * width, index // 2 * height))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()


def _written(images: list[ExportImage], *, num_files: int) -> Written:
    return Written(num_images=len(images), num_files=num_files, num_bytes=sum(len(image.data) for image in images))


def _num_prompts(rows: Iterable[dict[str, Any]]) -> int:
    return len({row["prompt_id"] for row in rows})


def _chunks(images: Iterator[ExportImage], size: int) -> Iterator[list[ExportImage]]:
    while chunk := list(itertools.islice(images, size)):
        yield chunk


def _chunks_of_bytes(images: Iterator[ExportImage], most: int) -> Iterator[list[ExportImage]]:
    """At least one image each, and no more than `most` bytes beside the first."""
    chunk: list[ExportImage] = []
    num_bytes = 0
    for image in images:
        if chunk and num_bytes + len(image.data) > most:
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(image)
        num_bytes += len(image.data)
    if chunk:
        yield chunk
