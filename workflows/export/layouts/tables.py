"""Images, codes and pairs as Arrow tables, for the layouts whose files hold tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from workflows.export.images import ExportImage
from workflows.export.layouts.layout import ExportError, ExportPair
from workflows.output.layouts import location
from workflows.output.manifest import MANIFEST_SCHEMA

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what Hugging Face `datasets` decodes
CODES = pa.list_(pa.int16())
MAX_CODE = 2**15 - 1

# The columns of the manifest that all images of a prompt share.
OF_PROMPT = {
    *("prompt_id", "prompt", "negative_prompt", "family", "prompt_format", "prompt_template", "protocol", "adapters"),
    *("dtype", "kv_cache", "sampler"),
    *("model", "model_revision", "weights_sha256", "vae", "vae_revision", "vae_sha256"),
}


# The columns of a judge that differ between the images of a prompt; the others say who judged.
OF_JUDGED_IMAGE = ("judge_score", "judge_caption", "candidate", "candidate_seeds", "candidate_scores")


def image_table(images: Sequence[ExportImage]) -> pa.Table:
    """The images and their rows."""
    table = pa.concat_tables([image.record for image in images])
    return table.add_column(0, pa.field("image", IMAGE), image_column(images))


def codes_table(images: Sequence[ExportImage]) -> pa.Table:
    """The codes of the images and their rows."""
    table = pa.concat_tables([image.record for image in images])
    return table.add_column(0, pa.field("codes", CODES), codes_column(images))


def pair_rows(pairs: Sequence[ExportPair], sides: tuple[str, str], score_names: Iterable[str]) -> pa.Table:
    """The rows of pairs: columns of the prompt once, and those of an image for the chosen and the rejected one.

    `sides` are the names of an image's column on both sides, with a star for its own: `chosen_*`.
    """
    chosen = pa.concat_tables([pair.chosen.record for pair in pairs])
    rejected = pa.concat_tables([pair.rejected.record for pair in pairs])
    of_image = {*MANIFEST_SCHEMA.names, *OF_JUDGED_IMAGE, *score_names} - OF_PROMPT
    columns: dict[str, pa.ChunkedArray] = {}
    for name in chosen.column_names:
        if name in of_image:
            for side, table in zip(sides, (chosen, rejected), strict=True):
                columns[side.replace("*", name)] = table[name]
    for name in chosen.column_names:
        if name not in of_image:
            free_name = name
            while free_name in columns:
                free_name = f"source_{free_name}"
            columns[free_name] = chosen[name]
    return pa.table(columns)


def with_columns(columns: dict[str, pa.Array], rows: pa.Table) -> pa.Table:
    """These columns first, then those of the rows. A column whose name is taken gets the prefix `source_`."""
    names = list(columns)
    for name in rows.column_names:
        while name in names:
            name = f"source_{name}"
        names.append(name)
    return pa.table([*columns.values(), *rows.columns], names=names)


def image_column(images: Sequence[ExportImage]) -> pa.Array:
    entries = [{"bytes": image.data, "path": file_name(image)} for image in images]
    return pa.array(entries, IMAGE)


def codes_column(images: Sequence[ExportImage]) -> pa.Array:
    """Raises ExportError for an image without codes, or with codes that do not fit."""
    num_codes = None if images[0].codes is None else len(images[0].codes)
    for image in images:
        if image.codes is None or image.codes.max(initial=0) > MAX_CODE:
            fault = "none" if image.codes is None else f"{image.codes.max():,}"
            raise ExportError(f"layout codes: image {image.image_id!r} must have codes up to {MAX_CODE:,}, got {fault}")
        if len(image.codes) != num_codes:
            raise ExportError(
                f"layout codes: {image.image_id!r} must have {num_codes} codes like others, got {len(image.codes)}"
            )
    return pa.array([image.codes for image in images], CODES)


def file_name(image: ExportImage) -> str:
    """The name of an image's file, without folder."""
    return location("files", "shard", image.image_id, image.extension).rpartition("/")[2]
