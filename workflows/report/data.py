"""The pictures of a report as the JSON its script reads, and text made safe to stand in a page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from workflows.report.quality_rules import FLAG_NAMES, LOOKALIKE
from workflows.report.selection import Picture
from workflows.report.survey import STATISTICS

CHUNK = 120  # thumbnails in one script element; a page of pictures parses the few it shows
MAX_PROMPT_CHARACTERS = 1_000
CONTROLS = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text without what HTML cannot hold (NUL, other control characters, lone surrogates), cut to a length."""
    cut = text if len(text) <= MAX_PROMPT_CHARACTERS else text[:MAX_PROMPT_CHARACTERS] + " …"
    return CONTROLS.sub("\ufffd", cut)


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def picture_link(picture: Picture) -> str | None:
    """The picture's file as a link from OUTPUT; None inside a pack, where nothing can be linked to."""
    place = picture.row["image"]
    return None if "#" in place else quote(place, safe="/")


def data_url(picture: Picture) -> str | None:
    data = picture.thumbnail
    return None if data is None else f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def thumbnail_chunks(pictures: Sequence[Picture]) -> Iterable[list[str]]:
    """Base64 thumbnails, `CHUNK` at a time, "" where there is none."""
    texts = ["" if p.thumbnail is None else base64.b64encode(p.thumbnail).decode() for p in pictures]
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def picture_table(pictures: Sequence[Picture], weights: Sequence[float | None]) -> dict[str, Any]:
    """The pictures column by column, with prompts and settings once each; `weights` are the columns of a sweep."""
    prompts, settings = _Index(), _Index()
    weight_of = {weight: index for index, weight in enumerate(weights)}
    rows = [picture.row for picture in pictures]
    groups = _Index()
    return {
        "prompt": [prompts.add(_prompt_entry(picture)) for picture in pictures],
        "settings": [settings.add(_settings_of(row)) for row in rows],
        "weight": [weight_of.get(row["cfg_weight"], len(weights) - 1) for row in rows],
        "cfg": [row["cfg_weight"] for row in rows],
        "index": [row["image_index"] for row in rows],
        "seed": [str(row["seed"]) for row in rows],  # 64 bits are more than a number of JavaScript holds
        "id": [clean(row["image_id"]) for row in rows],
        "place": [clean(row["image"]) for row in rows],
        "link": [picture_link(picture) for picture in pictures],
        "flags": [sum(1 << FLAG_NAMES.index(flag) for flag in picture.flags) for picture in pictures],
        "alike": [groups.add(p.row["perceptual_hash"]) if LOOKALIKE in p.flags else -1 for p in pictures],
        "sampled": [int(picture.is_sampled) for picture in pictures],
        **{name: [round(row[name], 3) for row in rows] for name in STATISTICS},
        "prompts": list(prompts.entries),
        "allSettings": list(settings.entries),
    }


class _Index:
    """Distinct entries in the order they came; `add` says where an entry stands."""

    def __init__(self) -> None:
        self.entries: dict[Any, int] = {}

    def add(self, entry: Any) -> int:
        return self.entries.setdefault(entry, len(self.entries))


def _prompt_entry(picture: Picture) -> tuple[str, str, str, str]:
    """Id, prompt, negative prompt and the carried columns as one line."""
    row = picture.row
    carried = " · ".join(f"{name}: {value}" for name, value in picture.carried.items())
    return clean(row["prompt_id"]), clean(row["prompt"]), clean(row["negative_prompt"] or ""), clean(carried)


def _settings_of(row: dict[str, Any]) -> str:
    """What a prompt row may set for itself beside the weight and the seed, and the size."""
    parts = [f"{row['width']} × {row['height']}"]
    if row["temperature"] is not None:
        parts.append(f"temperature {row['temperature']:g}")
    if row["num_inference_steps"] is not None:
        parts.append(f"{row['num_inference_steps']} steps")
    return " · ".join(parts)
