"""The folder that GenEval's evaluate_images.py reads: a numbered folder per prompt, with its metadata and samples.

https://github.com/djghosh13/geneval
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from PIL import Image

from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.chunks import NUM_WRITERS, chunks_of, count_of
from workflows.export.layouts.layout import ExportError, ExportLayout, Place, Written, weight_folder


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`00000/metadata.jsonl` and `00000/samples/0000.png`, in a sweep below `w<weight>/`."""
    written, prompt_ids, folders = Written(), set[str](), set[str]()
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for chunk in chunks_of(images):
            of_image = [_folder_of(image.prompt_id, image.cfg_weight, recipe) for image in chunk]
            of_folder = {folder: image for folder, image in zip(of_image, chunk, strict=True) if folder not in folders}
            metadata = {folder: _metadata_line(image) for folder, image in of_folder.items()}
            list(writers.map(place.write, [f"{folder}/metadata.jsonl" for folder in metadata], metadata.values()))
            names = [f"{folder}/samples/{i.image_index:04d}.png" for folder, i in zip(of_image, chunk, strict=True)]
            list(writers.map(place.write, names, map(png_bytes, chunk)))
            written += count_of(chunk, num_files=len(chunk))
            folders |= metadata.keys()
            prompt_ids |= {image.prompt_id for image in chunk}
    return written + Written(num_prompts=len(prompt_ids), num_files=len(folders))


def png_bytes(image: ExportImage) -> bytes:
    """The image as a PNG file; one that is a PNG keeps its bytes."""
    if image.extension == "png":
        return image.data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image.data)) as decoded:
        decoded.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _folder_of(prompt_id: str, weight: float, recipe: Recipe) -> str:
    """GenEval reads folders with numbers as names: the number at the end of the prompt's id."""
    number = re.search(r"[0-9]{1,18}$", prompt_id)
    if number is None:
        raise ExportError(f"geneval: a prompt id must end in the number of the prompt, got {prompt_id!r}")
    return f"{weight_folder(weight, recipe)}{int(number[0]):05d}"


def _metadata_line(image: ExportImage) -> bytes:
    """The prompt's metadata as one line. JSON has line breaks between its tokens only, so they can become spaces."""
    [text] = image.record["metadata"].to_pylist()
    try:
        is_object = isinstance(json.loads(text or ""), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        shown = repr(text)[:80]
        raise ExportError(
            f"geneval: column `metadata` must hold a JSON object, got {shown} for prompt {image.prompt_id!r}"
        )
    return re.sub(r"[\r\n]+", " ", text.strip()).encode() + b"\n"


def _check(recipe: Recipe, schema: pa.Schema) -> None:
    made_by = "`python -m examples.recipes.convert_prompts` writes prompt files with it"
    if "metadata" not in schema.names:
        raise ExportError(
            "geneval: the prompts need a column `metadata` with the prompt's line of GenEval's "
            f"evaluation_metadata.jsonl, and these have none; {made_by}"
        )
    kind = schema.field("metadata").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ExportError(f"geneval: column `metadata` must hold text (a line of JSON), got {kind}; {made_by}")


GENEVAL = ExportLayout(
    write=_write,
    check=_check,
    id_rule="end in different numbers",
    file_of=_folder_of,
    carries=("metadata",),
    has_columns=False,
    files_per="prompt",
    has_splits=False,
    how_to_read=("text", "python evaluation/evaluate_images.py DEST --outfile results.jsonl ..."),
)
