"""The folder that DPG-Bench's compute_dpg_bench.py reads: a file per prompt, with its four images in a grid.

https://github.com/TencentQQGYLab/ELLA
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import pyarrow as pa
from PIL import Image

from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.geneval import png_bytes
from workflows.export.layouts.layout import ExportError, ExportLayout, Place, Written, weight_folder

GRID_SIZES = (1, 4)  # images per file: one, or two by two


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`images/<prompt id>.png` with the prompt's images in the order of their index, in a sweep below `w<weight>/`.

    A prompt that lacks an image gets no grid, because the benchmark would judge the empty quarter.
    """
    written = Written()
    for prompt_id, of_prompt in itertools.groupby(images, key=lambda image: image.prompt_id):
        by_weight: dict[float, list[ExportImage]] = {}
        for image in of_prompt:
            by_weight.setdefault(image.cfg_weight, []).append(image)
        of_grids = Written()
        for weight, tiles in by_weight.items():
            if len(tiles) != recipe.images_per_prompt:
                of_grids += Written(num_left_out=len(tiles))
                continue
            data = _grid_bytes(sorted(tiles, key=lambda image: image.image_index))
            place.write(_file_of(prompt_id, weight, recipe), data)
            of_grids += Written(num_images=len(tiles), num_files=1, num_bytes=len(data))
        written += of_grids + Written(num_prompts=1 if of_grids.num_files else 0)
    return written


def _file_of(prompt_id: str, weight: float, recipe: Recipe) -> str:
    if "." in prompt_id:
        raise ExportError(f"dpg: a prompt id must not have a dot, because a file name ends at it, got {prompt_id!r}")
    return f"{weight_folder(weight, recipe)}images/{prompt_id}.png"


def _grid_bytes(images: list[ExportImage]) -> bytes:
    """One image as it is, four images two by two in reading order."""
    if len(images) == 1:
        return png_bytes(images[0])
    tiles = [Image.open(io.BytesIO(image.data)).convert("RGB") for image in images]
    width, height = tiles[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for index, tile in enumerate(tiles):
        grid.paste(tile, (index % 2 * width, index // 2 * height))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()


def _check(recipe: Recipe, schema: pa.Schema) -> None:
    if recipe.images_per_prompt not in GRID_SIZES:
        raise ExportError(f"dpg: sampling.images_per_prompt must be 4 (a grid) or 1, got {recipe.images_per_prompt}")


DPG = ExportLayout(
    write=_write,
    check=_check,
    id_rule="are unique, even if case is ignored",
    file_of=_file_of,
    carries=(),
    how_to_read=(
        "text",
        "accelerate launch dpg_bench/compute_dpg_bench.py --image-root-path DEST/images --resolution SIZE --pic-num N",
    ),
    wants_whole_prompts=True,
    has_columns=False,
    files_per="prompt",
    has_splits=False,
)
