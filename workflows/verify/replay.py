"""Replay: re-render images from their manifest rows alone, in this process, and compare them with the files.

The text that a model writes before an image must be that of the row, too.

The bytes of a file depend on the pixels and on the text in which the file describes them. Another version of
janus-batch may write another text, so a replay with the same pixels is a success. An image that was judged is looked at
again, and its score must be the same.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from actors.batcher import Batcher
from actors.engines import open_engine_and_looker
from actors.errors import InputError, one_line, shown
from actors.families import FAMILIES
from actors.prompt.template import template_from_json
from actors.recipe import Judge, Recipe, adapters_from_json
from actors.request import ImageRequest, Rejection, RenderedImage
from actors.understanding.judging import JudgingBatcher
from workflows.output.encode import EXTENSIONS, encode_image
from workflows.output.layouts import read_image
from workflows.output.manifest import (
    NUM_READERS,
    committed_parts,
    count_rows,
    manifest_name,
    own_schema,
    settings_of_row,
)
from workflows.output.parts import read_part
from workflows.storage.store import Storage

NUM_IDS = 10_000  # to look for one that is similar
OTHER_TEXT = "the same pixels, and another text in the file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One re-rendered image: `same_bytes`, or how it differs from its file. `same_pixels`: in its text at most.

    `image_sha256` is the manifest's; `rendered_on` and `replayed_on` are the devices, as the manifest has them.
    `score` is the judge's score now; None if the image was not judged, or cannot be rendered. `same_score`: it is the
    manifest's, or neither has one.
    """

    image_id: str
    image: str
    same_bytes: bool
    same_pixels: bool
    difference: str = ""
    image_sha256: str
    rendered_on: str
    replayed_on: str
    score: float | None = None
    same_score: bool = True

    @property
    def is_same(self) -> bool:
        """Whether the replay is a success."""
        return self.same_pixels and self.same_score


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReplay:
    """One image, re-rendered by its id. `data` is the image file, None if the request cannot be rendered now."""

    request: ImageRequest
    data: bytes | None
    replay: Replay


def replay_images(storage: Storage, num_images: int, seed: int) -> Iterator[Replay]:
    """Re-render `num_images` randomly picked images and compare them with their files byte for byte.

    Raises OtherWeightsError or CheckpointError if the model of a row cannot be loaded.
    """
    rows = _pick_rows(storage, num_images, random.Random(seed))
    for recipe in dict.fromkeys(_recipe_of(row) for row in rows):
        chosen = {_request_of(row): row for row in rows if _recipe_of(row) == recipe}
        device, answers = _render(storage, recipe, list(chosen))
        for request, answer in answers:
            yield _compare(storage, chosen[request], request, answer, recipe, device)


def find_image(storage: Storage, image_id: str) -> dict[str, Any]:
    """The manifest row of an image, the first one if several shards have the id. Raises InputError."""
    parts = committed_parts(storage)

    def find(part: str) -> int:
        return int(pc.index(read_part(storage, part, ["image_id"])["image_id"], image_id).as_py())

    with ThreadPoolExecutor(NUM_READERS) as readers:
        for part, position in zip(parts, readers.map(find, parts), strict=True):
            if position >= 0:
                return _rows_at(storage, part, [position])[0]
    raise no_image(storage.url, image_id, read_part(storage, parts[0], ["image_id"])["image_id"] if parts else None)


def no_image(url: str, image_id: str, ids: pa.ChunkedArray | None) -> InputError:
    """The error for an id that an output does not have, with one of the ids that it has, the most similar one."""
    known = [] if ids is None else ids.slice(0, NUM_IDS).to_pylist()
    close = [one for one in known if one.startswith(f"{image_id}_")] or difflib.get_close_matches(image_id, known, n=1)
    if close:
        advice = f"did you mean {one_line(close[0])!r}?"
    else:
        advice = f"its ids look like {one_line(known[0])!r}" if known else "it has no images"
    return InputError(f"{url} has no image {one_line(image_id)!r}; {advice}")


def replay_image(storage: Storage, row: dict[str, Any], image_format: str, changes: dict[str, Any]) -> ImageReplay:
    """Re-render the image of a manifest row, with changes to its request, and encode it in a format of `EXTENSIONS`.

    Raises OtherWeightsError or CheckpointError if its model cannot be loaded.
    """
    recipe, request = _recipe_of(row), dataclasses.replace(_request_of(row), **changes)
    device, answers = _render(storage, recipe, [request])
    ((_, answer),) = answers
    return ImageReplay(
        request=request,
        data=None if isinstance(answer, Rejection) else encode_image(answer, image_format, request, recipe),
        replay=_compare(storage, row, request, answer, recipe, device),
    )


def format_of(image: str) -> str:
    """The image format of a file name, by its extension. Raises InputError."""
    extension = image.rpartition(".")[2]
    for name, ending in EXTENSIONS.items():
        if extension.lower() == ending:
            return name
    raise InputError(f"an image file ends in {', '.join(f'.{ending}' for ending in EXTENSIONS.values())}, got {image}")


def _pick_rows(storage: Storage, num_images: int, chance: random.Random) -> list[dict[str, Any]]:
    """Rows of the manifest, picked at random with equal probability."""
    parts = committed_parts(storage)
    counts = [count_rows(storage, part) for part in parts]
    picked = chance.sample(range(sum(counts)), min(num_images, sum(counts)))
    rows, offset = [], 0
    for part, count in zip(parts, counts, strict=True):
        inside = sorted(position - offset for position in picked if offset <= position < offset + count)
        if inside:
            rows += _rows_at(storage, part, inside)
        offset += count
    return rows


def _rows_at(storage: Storage, part: str, positions: list[int]) -> list[dict[str, Any]]:
    """Rows of a manifest part, without carried columns. Raises InputError for an unknown family."""
    columns = own_schema("judged").names
    rows: list[dict[str, Any]] = read_part(storage, part, columns).take(positions).to_pylist()
    families = [family for row in rows for family in (row["family"], row["judge_family"]) if family is not None]
    for family in (family for family in families if family not in FAMILIES):
        raise InputError(
            f"{storage.url}/{manifest_name(part)} has an image of family {shown(family)}; this version of janus-batch "
            f"can replay {', '.join(FAMILIES)}"
        )
    return rows


def _recipe_of(row: dict[str, Any]) -> Recipe:
    """The recipe of a manifest row, without the seed and the sampling settings, which its request holds."""
    return Recipe(
        family=row["family"],
        checkpoint=row["model"],
        revision=row["model_revision"],
        weights_sha256=row["weights_sha256"],
        prompt_format=row["prompt_format"],
        prompt_template=template_from_json(row["prompt_template"]),
        protocol=row["protocol"],
        adapters=adapters_from_json(row["adapters"]),
        vae=row["vae"],
        vae_revision=row["vae_revision"],
        vae_sha256=row["vae_sha256"],
        dtype=row["dtype"],
        kv_cache=row["kv_cache"],
        sampler=row["sampler"],
        cfg_weights=(),
        images_per_prompt=1,
        seed=0,
        judge=None if row["judge_score"] is None else _judge_of(row),
    )


def _judge_of(row: dict[str, Any]) -> Judge:
    """The judge of a manifest row, which looks at the kept candidate alone."""
    return Judge(
        question=row["judge_question"],
        family=row["judge_family"],
        checkpoint=row["judge_model"],
        revision=row["judge_model_revision"],
        weights_sha256=row["judge_weights_sha256"],
        prompt_format=row["judge_prompt_format"],
        is_own=row["judge_is_own"],
        looker=row["judge_looker"],
    )


def _request_of(row: dict[str, Any]) -> ImageRequest:
    names = ("image_id", "prompt_id", "image_index", "prompt", "negative_prompt", "seed", "cfg_weight")
    return ImageRequest(**{name: row[name] for name in names}, **settings_of_row(row))


def _render(
    storage: Storage, recipe: Recipe, requests: list[ImageRequest]
) -> tuple[str, Iterator[tuple[ImageRequest, RenderedImage | Rejection]]]:
    """The device that renders, and the answers as they come."""
    engine, looker = open_engine_and_looker(recipe, storage.options, allow_faults=True)
    batcher = Batcher(engine)
    judging = JudgingBatcher(batcher, looker, recipe.judge) if looker and recipe.judge else batcher
    return engine.device, itertools.chain.from_iterable(judging.render(requests))


def _compare(
    storage: Storage,
    row: dict[str, Any],
    request: ImageRequest,
    answer: RenderedImage | Rejection,
    recipe: Recipe,
    device: str,
) -> Replay:
    verdict = answer.verdict if isinstance(answer, RenderedImage) else None
    return Replay(
        image_id=row["image_id"],
        image=row["image"],
        same_bytes=not (difference := _difference(storage, row, request, answer, recipe)),
        same_pixels=difference in ("", OTHER_TEXT),
        difference=difference,
        image_sha256=row["image_sha256"],
        rendered_on=row["device"],
        replayed_on=device,
        score=None if verdict is None else verdict.score,
        same_score=verdict is None or verdict.score == row["judge_score"],
    )


def _difference(
    storage: Storage, row: dict[str, Any], request: ImageRequest, answer: RenderedImage | Rejection, recipe: Recipe
) -> str:
    """How the re-rendered image differs from the stored file; empty if it does not."""
    if isinstance(answer, Rejection):
        return f"it cannot be rendered now: {answer.reason}"
    data = encode_image(answer, format_of(row["image"]), request, recipe)
    try:
        stored = read_image(storage, row["image"])
    except (FileNotFoundError, KeyError):
        return "its file is missing"
    if data == stored:
        if answer.reasoning != row["reasoning"]:
            return "the same image, but another text before it than in the column reasoning"
        is_same_codes = answer.codes is None or list(answer.codes) == row["codes"]
        return "" if is_same_codes else "the same image, but other codes than in the column codes"
    if hashlib.sha256(stored).hexdigest() == row["image_sha256"] and _pixels(data) == _pixels(stored):
        return OTHER_TEXT
    same_codes = answer.codes is not None and list(answer.codes) == row["codes"]
    return "other bytes" + (", the same codes" if same_codes else "")


def _pixels(data: bytes) -> bytes:
    """The decoded pixels of an image file; none if it is not one."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB").tobytes()
    except OSError:
        return b""
