"""Pairs of images in the columns of Pick-a-Pic, which the trainers of Diffusion-DPO and of reward models read.

https://huggingface.co/datasets/yuvalkirstain/pickapic_v2 ; https://github.com/SalesforceAIResearch/DiffusionDPO opens
the bytes in `jpg_0` and `jpg_1`, of any format, and turns the pair around where `label_0` is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from actors.recipe import Recipe
from workflows.export.layouts.layout import ExportLayout, ExportPair, Place, Written, pattern_of
from workflows.export.layouts.parquet import write_tables
from workflows.export.layouts.tables import pair_rows, with_columns
from workflows.export.sample import uniform


def _write_pairs(place: Place, pairs: Iterator[ExportPair], recipe: Recipe) -> Written:
    """`data/<shard>-<number>.parquet` with a pair in each row."""
    return write_tables(place, pairs, lambda group: _table(group, place.score_names), image_columns=[])


def _table(pairs: Sequence[ExportPair], score_names: frozenset[str]) -> pa.Table:
    """Image 0 is the preferred one in half of the rows, so that its position tells a model nothing."""
    is_swapped = [bool(uniform(pair.chosen.image_id, pair.rejected.image_id) % 2) for pair in pairs]
    sides = [
        ExportPair(
            chosen=pair.rejected,
            rejected=pair.chosen,
            score_chosen=pair.score_rejected,
            score_rejected=pair.score_chosen,
        )
        if swapped
        else pair
        for pair, swapped in zip(pairs, is_swapped, strict=True)
    ]
    firsts, seconds = [pair.chosen for pair in sides], [pair.rejected for pair in sides]
    rows = pair_rows(sides, ("*_0", "*_1"), score_names)
    columns = {
        "caption": rows["prompt"].combine_chunks(),
        "jpg_0": pa.array([image.data for image in firsts], pa.binary()),
        "jpg_1": pa.array([image.data for image in seconds], pa.binary()),
        "label_0": pa.array([float(not swapped) for swapped in is_swapped], pa.float64()),
        "label_1": pa.array([float(swapped) for swapped in is_swapped], pa.float64()),
        "image_0_uid": pa.array([image.image_id for image in firsts], pa.string()),
        "image_1_uid": pa.array([image.image_id for image in seconds], pa.string()),
        "best_image_uid": pa.array([pair.chosen.image_id for pair in pairs], pa.string()),
        "has_label": pa.array([True] * len(pairs), pa.bool_()),
        "are_different": pa.array([True] * len(pairs), pa.bool_()),
        "model_0": rows["model"].combine_chunks(),
        "model_1": rows["model"].combine_chunks(),
        "score_0": pa.array([pair.score_chosen for pair in sides], pa.float64()),
        "score_1": pa.array([pair.score_rejected for pair in sides], pa.float64()),
    }
    return with_columns(columns, rows.drop_columns(["prompt"]))


PICKAPIC = ExportLayout(
    write_pairs=_write_pairs,
    pattern=pattern_of("parquet"),
    pair_columns=("caption", "jpg_0", "jpg_1", "label_0", "label_1", "score_0", "score_1", "*_0", "*_1"),
    how_to_read=("python", 'import datasets\ndatasets.load_dataset("DEST")'),
)
