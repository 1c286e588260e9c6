"""The JSON that the page's script reads, and text made safe for a page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from workflows.report.carried import GroupFacts, Grouping
from workflows.report.grid import Grid
from workflows.report.quality_rules import NEAR_DUPLICATE, RULE_NAMES
from workflows.report.selection import SelectedImage
from workflows.report.survey import STATISTICS

CHUNK = 120  # thumbnails per script element; a page of the gallery parses only the chunks that it shows
MAX_PROMPT_CHARACTERS = 1_000
CONTROLS = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def page_data(
    images: Sequence[SelectedImage],
    grid: Grid,
    groups: Grouping,
    weights: Sequence[float | None],
    typical: Collection[str],
) -> dict[str, Any]:
    """The images with everything that explains their numbers. `typical` are quality rules that mark no image."""
    carried = carried_names(images)
    return {
        "rules": RULE_NAMES,
        "typical": [RULE_NAMES.index(name) for name in typical],
        "nearDuplicate": RULE_NAMES.index(NEAR_DUPLICATE),
        "columns": grid.columns,
        "carried": [clean(name) for name in carried],
        "groups": [_group_entry(carried.index(name), values) for name, values in groups],
        "scores": score_names(images),
        "chunk": CHUNK,
        "images": image_table(images, weights, grid),
    }


def _group_entry(position: int, groups: dict[str | None, GroupFacts]) -> dict[str, Any]:
    """A column that divides the job: its position among the carried columns, its values, and images of each."""
    return {
        "carried": position,
        "values": [None if value is None else clean(value) for value in groups],
        "counts": [facts.num_images for facts in groups.values()],
    }


def image_table(images: Sequence[SelectedImage], weights: Sequence[float | None], grid: Grid) -> dict[str, Any]:
    """The images column by column. Prompts and settings are listed once; `weights` are those of the survey.

    A prompt is [id, prompt, negative prompt, carried values in the order of `carried_names`].
    """
    prompts, settings, groups = _Index(), _Index(), _Index()
    weight_of = {weight: index for index, weight in enumerate(weights)}
    rows, names = [image.row for image in images], carried_names(images)
    cells = [cell or (-1, -1) for cell in grid.cells]
    return {
        "prompt": [prompts.add(_prompt_entry(image, names)) for image in images],
        "settings": [settings.add(_settings_of(row)) for row in rows],
        "weight": [weight_of.get(row["cfg_weight"], len(weights) - 1) for row in rows],
        "cfg": [row["cfg_weight"] for row in rows],
        "index": [row["image_index"] for row in rows],
        "seed": [str(row["seed"]) for row in rows],  # JavaScript's numbers do not hold 64 bits
        "id": [clean(row["image_id"]) for row in rows],
        "location": [clean(row["image"]) for row in rows],
        "link": [image_link(image) for image in images],
        "made": [int(row["created_at"].timestamp()) for row in rows],
        "rules": [sum(1 << RULE_NAMES.index(rule) for rule in image.rules) for image in images],
        "group": [groups.add(i.row["perceptual_hash"]) if NEAR_DUPLICATE in i.rules else -1 for i in images],
        "row": [row for row, _ in cells],
        "column": [column for _, column in cells],
        "scores": [
            [None if name not in image.scores else float(f"{image.scores[name]:.4g}") for image in images]
            for name in score_names(images)
        ],
        **_judged(rows),
        **{name: [round(row[name], 3) for row in rows] for name in STATISTICS},
        "prompts": list(prompts.entries),
        "allSettings": list(settings.entries),
    }


def _judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the judge of a job saw and did: captions, and for each image the facts of its candidates by name."""
    if not any("candidate_seeds" in row for row in rows):
        return {}
    return {
        "caption": [clean(row.get("judge_caption") or "") for row in rows],
        "candidates": [_candidates(row) for row in rows],
    }


def _candidates(row: dict[str, Any]) -> list[tuple[str, str]]:
    seeds, scores = row.get("candidate_seeds") or [], row.get("candidate_scores") or []
    kept = {row.get("candidate"): ", kept"}
    return [
        (f"Candidate {number}{kept.get(number, '')}", f"score {score:.3g}, seed {seed}")
        for number, (seed, score) in enumerate(zip(seeds, scores, strict=False))
        if score is not None
    ]


def carried_names(images: Iterable[SelectedImage]) -> list[str]:
    """The carried columns of these images, in the order of their arrival."""
    return list(dict.fromkeys(name for image in images for name in image.carried))


def score_names(images: Iterable[SelectedImage]) -> list[str]:
    return sorted({name for image in images for name in image.scores})


def thumbnail_chunks(images: Sequence[SelectedImage]) -> Iterable[list[str]]:
    """Base64 thumbnails, `CHUNK` at a time; "" for an image without one."""
    texts = ["" if i.thumbnail is None else base64.b64encode(i.thumbnail).decode() for i in images]
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def script_json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def clean(text: str) -> str:
    """The text without characters that HTML cannot hold (NUL, control characters, lone surrogates), cut to a length."""
    cut = text if len(text) <= MAX_PROMPT_CHARACTERS else text[:MAX_PROMPT_CHARACTERS] + " …"
    return CONTROLS.sub("\ufffd", cut)


def image_link(image: SelectedImage) -> str | None:
    """The image file as a link relative to the page; None for an image inside a pack, which has no file of its own, and
    for an output that the page cannot link to."""
    location = image.row["image"]
    if "#" in location or image.folder is None:
        return None
    return quote(f"{image.folder}/{location}" if image.folder else location, safe="/")


def data_url(image: SelectedImage) -> str | None:
    data = image.thumbnail
    if data is None:
        return None
    return f"data:image/{'png' if is_lossless(image) else 'webp'};base64,{base64.b64encode(data).decode()}"


def is_lossless(image: SelectedImage) -> bool:
    """Whether the thumbnail is a PNG, with every pixel of a small image. The script tells by its first letters."""
    return image.thumbnail is not None and image.thumbnail.startswith(b"\x89PNG")


class _Index:
    """Distinct entries in the order of their arrival; `add` returns the position of an entry."""

    def __init__(self) -> None:
        self.entries: dict[Any, int] = {}

    def add(self, entry: Any) -> int:
        return self.entries.setdefault(entry, len(self.entries))


def _prompt_entry(image: SelectedImage, names: Sequence[str]) -> tuple[str, str, str, tuple[str | None, ...]]:
    row = image.row
    carried = tuple(None if name not in image.carried else clean(image.carried[name]) for name in names)
    return clean(row["prompt_id"]), clean(row["prompt"]), clean(row["negative_prompt"] or ""), carried


def _settings_of(row: dict[str, Any]) -> str:
    """The size, and the settings that a prompt row may set for itself, except weight and seed."""
    parts = [f"{row['width']} × {row['height']}"]
    if row["temperature"] is not None:
        parts.append(f"temperature {row['temperature']:g}")
    if row["num_inference_steps"] is not None:
        parts.append(f"{row['num_inference_steps']} steps")
    return " · ".join(parts)
