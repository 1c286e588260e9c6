"""Replay: re-render images from their manifest rows alone, in this process, and compare the bytes with the files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.batcher import Batcher
from actors.engines import open_engine
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage
from workflows.output.encode import EXTENSIONS, encode_image
from workflows.output.layouts import read_image
from workflows.output.manifest import committed_parts, count_rows, manifest_name, read_table, settings_of_row
from workflows.storage.store import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One re-rendered image: `same_bytes`, or how it differs from its file."""

    image_id: str
    image: str
    same_bytes: bool
    difference: str = ""


def replay_images(storage: Storage, num_images: int, seed: int) -> Iterator[Replay]:
    """Re-render `num_images` randomly picked images and compare them with their files byte for byte.

    Raises OtherWeightsError or CheckpointError if the model of a row cannot be loaded.
    """
    rows = _pick_rows(storage, num_images, random.Random(seed))
    for recipe in dict.fromkeys(_recipe_of(row) for row in rows):
        chosen = {_request_of(row): row for row in rows if _recipe_of(row) == recipe}
        for request, answer in _render(storage, recipe, list(chosen)):
            yield _compare(storage, chosen[request], request, answer, recipe)


def _pick_rows(storage: Storage, num_images: int, chance: random.Random) -> list[dict[str, Any]]:
    """Rows of the manifest, picked at random with equal probability."""
    parts = committed_parts(storage)
    counts = [count_rows(storage, part) for part in parts]
    picked = chance.sample(range(sum(counts)), min(num_images, sum(counts)))
    rows, offset = [], 0
    for part, count in zip(parts, counts, strict=True):
        inside = sorted(position - offset for position in picked if offset <= position < offset + count)
        if inside:
            rows += read_table(storage, manifest_name(part)).take(inside).to_pylist()
        offset += count
    return rows


def _recipe_of(row: dict[str, Any]) -> Recipe:
    """The recipe of a manifest row, without the seed and the sampling settings, which its request holds."""
    return Recipe(
        family=row["family"],
        checkpoint=row["model"],
        revision=row["model_revision"],
        weights_sha256=row["weights_sha256"],
        prompt_format=row["prompt_format"],
        vae=row["vae"],
        vae_revision=row["vae_revision"],
        vae_sha256=row["vae_sha256"],
        dtype=row["dtype"],
        kv_cache=row["kv_cache"],
        sampler=row["sampler"],
        cfg_weights=(),
        images_per_prompt=1,
        seed=0,
    )


def _request_of(row: dict[str, Any]) -> ImageRequest:
    names = ("image_id", "prompt_id", "image_index", "prompt", "negative_prompt", "seed", "cfg_weight")
    return ImageRequest(**{name: row[name] for name in names}, **settings_of_row(row))


def _render(
    storage: Storage, recipe: Recipe, requests: list[ImageRequest]
) -> Iterator[tuple[ImageRequest, RenderedImage | Rejection]]:
    engine = open_engine(recipe, storage.options, allow_faults=True)
    for batch in Batcher(engine).render(requests):
        yield from batch


def _compare(
    storage: Storage, row: dict[str, Any], request: ImageRequest, answer: RenderedImage | Rejection, recipe: Recipe
) -> Replay:
    return Replay(
        image_id=row["image_id"],
        image=row["image"],
        same_bytes=not (difference := _difference(storage, row, request, answer, recipe)),
        difference=difference,
    )


def _difference(
    storage: Storage, row: dict[str, Any], request: ImageRequest, answer: RenderedImage | Rejection, recipe: Recipe
) -> str:
    """How the re-rendered image differs from the stored file; empty if it does not."""
    if isinstance(answer, Rejection):
        return f"it cannot be rendered now: {answer.reason}"
    extension = row["image"].rpartition(".")[2]
    image_format = next(name for name, ending in EXTENSIONS.items() if ending == extension)
    data = encode_image(answer.pixels, image_format, request, recipe)
    try:
        stored = read_image(storage, row["image"])
    except (FileNotFoundError, KeyError):
        return "its file is missing"
    if data == stored:
        return ""
    same_codes = answer.codes is not None and list(answer.codes) == row["codes"]
    return "other bytes" + (", the same codes" if same_codes else "")
