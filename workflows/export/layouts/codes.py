"""Codes instead of pixels: 576 numbers for each Janus image, and the decoder that shows them.

A code takes 14 bits: a dictionary of the values that occur, and their positions in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import pyarrow as pa

from actors.families import FAMILIES
from actors.recipe import Recipe
from workflows.export.images import ExportImage
from workflows.export.layouts.layout import ExportError, ExportLayout, ExportPair, Place, Whole, Written, pattern_of
from workflows.export.layouts.parquet import PREFERENCE_COLUMNS, preference_table, write_tables
from workflows.export.layouts.tables import codes_column, codes_table

DECODER_FILE, SCRIPT_FILE = "decoder.safetensors", "decode.py"


def _write(place: Place, images: Iterator[ExportImage], recipe: Recipe) -> Written:
    """`data/<shard>-<number>.parquet` with the column `codes`, and the manifest's columns."""
    return write_tables(place, images, codes_table, image_columns=[])


def _write_pairs(place: Place, pairs: Iterator[ExportPair], recipe: Recipe) -> Written:
    """The same files with the columns of a preference dataset; `chosen` and `rejected` hold codes."""
    return write_tables(
        place, pairs, lambda group: preference_table(group, codes_column, place.score_names), image_columns=[]
    )


def _check(recipe: Recipe, schema: pa.Schema) -> None:
    if FAMILIES[recipe.family].decoder_file is None:
        raise ExportError(
            f"layout codes needs images of Janus or Janus-Pro, which have codes; these are of {recipe.family}"
        )


def _begin(work: Whole) -> tuple[str, ...]:
    """Write the decoder first: a checkpoint that is gone stops the export before it writes data."""
    family = FAMILIES[work.recipe.family]
    assert family.decode_script is not None, "checked before"
    if not work.dest.exists(DECODER_FILE):
        work.dest.write(DECODER_FILE, family.load_decoder_file()(work.recipe, work.storage_options))
    work.dest.write(SCRIPT_FILE, files("actors").joinpath(family.decode_script).read_bytes())
    return DECODER_FILE, SCRIPT_FILE


CODES = ExportLayout(
    write=_write,
    write_pairs=_write_pairs,
    check=_check,
    begin=_begin,
    pattern=pattern_of("parquet"),
    has_pixels=False,
    own_columns=("codes",),
    pair_columns=PREFERENCE_COLUMNS,
    how_to_read=(
        "python",
        """import sys, datasets, torch
from PIL import Image

folder = "DEST"
sys.path.append(folder)
from decode import load_decoder

decode = load_decoder(f"{folder}/decoder.safetensors")
rows = datasets.load_dataset(folder, split="SPLIT")
pixels = decode(torch.tensor(rows[:4]["codes"]))  # uint8 [4, height, width, 3]
Image.fromarray(pixels[0].numpy()).save("first.png")""",
    ),
)
