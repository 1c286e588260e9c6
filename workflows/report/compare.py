"""A page that shows two outputs side by side on the same prompts and seeds.

Needs neither Ray nor a network. Reads both manifests once, then the selected images.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import InputError, one_line
from workflows.output.claim import Claim, read_claim
from workflows.output.manifest import committed_parts
from workflows.output.parts import read_part
from workflows.report.compare_page import ComparisonFacts, Difference, Side, make_comparison_page
from workflows.report.pairs import Keys, compare_scores, num_other_prompts, paired, read_keys
from workflows.report.scores import Scores
from workflows.report.selection import MAX_IMAGES, SelectedImage, images_of, spread, with_thumbnails
from workflows.report.survey import survey_manifest
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

MAX_LISTED = 50  # prompts without a partner, of each output


class NotComparableError(InputError):
    """The two outputs have no image in common, or the page cannot be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A written page. `num_pairs` counts prompts and seeds that both outputs have, `num_shown` those on the page."""

    file: str
    num_bytes: int
    num_pairs: int
    num_shown: int
    num_alone: tuple[int, int]
    facts: ComparisonFacts


def write_comparison(first: Storage, second: Storage, file: str) -> Comparison:
    """Write the page to a local file, and replace an older one.

    Raises StorageError or DamagedFileError for an output that cannot be read, and NotComparableError.
    """
    opened = []
    for storage in (first, second):
        with storage_errors(storage.url):
            parts = committed_parts(storage)
            opened.append((storage, read_claim(storage), parts, read_keys(storage, parts)))
    keys = paired(opened[0][3], opened[1][3])
    if not len(keys):
        raise NotComparableError(
            f"{first.url} and {second.url} have no image with the same prompt id, seed and image index"
        )
    facts = _gather(opened, keys, os.path.dirname(os.path.abspath(file)))
    page = make_comparison_page(facts).encode()
    _write(file, page)
    return Comparison(
        file=file,
        num_bytes=len(page),
        num_pairs=len(keys),
        num_shown=facts.num_shown,
        num_alone=(facts.sides[0].num_alone, facts.sides[1].num_alone),
        facts=facts,
    )


def differences_of(first: Claim, second: Claim) -> list[Difference]:
    """The settings that differ, with both values; those that decide the images first, then how they are stored.

    A section that one of the two does not have, such as `judge`, is one setting.
    """
    sections = [{**asdict(claim.recipe), "images": asdict(claim.images)} for claim in (first, second)]
    whole = {name for section in sections for name, value in section.items() if value is None}
    fields = [_flat(section, whole) for section in sections]
    names = dict.fromkeys([*fields[0], *fields[1]])
    values = [(name, fields[0].get(name), fields[1].get(name)) for name in names]
    return [Difference(name=name, first=one, second=other) for name, one, other in values if one != other]


def _gather(opened: list[tuple[Storage, Claim, list[str], Keys]], keys: np.ndarray, folder: str) -> ComparisonFacts:
    (_, first, _, first_keys), (_, second, _, second_keys) = opened
    images_per_pair = sum(int(np.isin(side.keys, keys).sum()) for side in (first_keys, second_keys)) / len(keys)
    shown = np.array(spread(keys.tolist(), max(1, int(MAX_IMAGES / images_per_pair))), np.uint64)
    sides = []
    for storage, claim, parts, side_keys in opened:
        with storage_errors(storage.url):
            sides.append(_side(storage, claim, parts, side_keys, keys, shown, folder))
    return ComparisonFacts(
        sides=(sides[0], sides[1]),
        differences=differences_of(first, second),
        num_pairs=len(keys),
        num_shown=len(shown),
        num_other_prompts=num_other_prompts(first_keys, second_keys, keys),
        scores=compare_scores(first_keys, second_keys, keys),
    )


def _side(
    storage: Storage, claim: Claim, parts: list[str], side: Keys, keys: np.ndarray, shown: np.ndarray, folder: str
) -> Side:
    alone = side.keys[~np.isin(side.keys, keys)]
    listed = _read(storage, parts, side, alone[:MAX_LISTED], folder)
    return Side(
        url=storage.url,
        claim=claim,
        survey=survey_manifest(storage, parts, claim.recipe.cfg_weights),
        images=with_thumbnails(storage, _read(storage, parts, side, shown, folder)),
        num_alone=len(np.unique(alone)),
        alone=list({image.row["prompt_id"]: image.row["prompt"] for image in listed}.items()),
    )


def _read(storage: Storage, parts: list[str], side: Keys, keys: np.ndarray, folder: str) -> list[SelectedImage]:
    """The images with these keys, in the order of the manifest, without thumbnails."""
    scores, images = Scores(storage), []
    link = os.path.relpath(storage.root, folder) if storage.is_local else None
    for part, rows in sorted(side.places_of(keys).items()):
        table = read_part(storage, parts[part])
        everything, no_hashes = np.ones(table.num_rows, bool), np.zeros(0, np.uint64)
        images += images_of(table, rows, everything, scores.of_rows(parts[part], table), no_hashes)
    return [replace(image, folder=link) for image in images]


def _flat(fields: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names; the fields in `whole` are left as they are."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        is_section = isinstance(value, dict) and name not in whole
        flat |= _flat(value, prefix=f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value}
    return flat


def _write(file: str, data: bytes) -> None:
    try:
        Path(file).write_bytes(data)
    except OSError as error:
        raise NotComparableError(f"{one_line(file)} cannot be written: {error.strerror or error}") from error
