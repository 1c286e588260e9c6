"""Finds images that look alike, from the perceptual hashes in the manifest and, if there are any, from embeddings.

In the order of the manifest, an image is a duplicate of the nearest earlier image that is no duplicate itself, if the
two are near enough. So groups have a first image, and no chain of small differences joins images that differ a lot.
The result depends on the manifest alone. It needs about 100 bytes of memory per image, and 4 per dimension of an
embedding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.output.manifest import committed_parts
from workflows.output.parts import read_part
from workflows.output.read_ahead import read_ahead
from workflows.scores.embeddings import Embeddings
from workflows.scores.parts import (
    KEY_SCHEMA,
    Scorer,
    ScoresError,
    claim_scores,
    claimed_scorer,
    hold_scores,
    scored_parts,
    write_scores,
)
from workflows.storage.errors import storage_errors
from workflows.storage.store import Storage

HASH_BITS = 64
CHUNK = 256  # images whose embeddings are compared at once
VERSION = "duplicates-1"
IMAGES = "images_sha256"  # the setting that says which images were compared


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """How near two duplicates are: at most `max_distance` bits of 64 differ between their perceptual hashes, or the
    cosine similarity of their embeddings, by the scorer `embeddings_of`, is at least `min_similarity`."""

    max_distance: int = 4
    embeddings_of: str | None = None
    min_similarity: float = 0.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """How many images there are, and how many of them are duplicates of an earlier one."""

    num_images: int
    num_duplicates: int


def score_duplicates(storage: Storage, name: str, likeness: Likeness) -> Duplicates:
    """Write `cluster` (the id of the group's first image), `duplicate_of` (null for the first), `distance` and, with
    embeddings, `similarity` to the first, for every image of the output.

    Raises ScoresError if the folder has the duplicates among other images, or if embeddings are missing, and
    OutputInUseError if another run holds the folder.
    """
    with storage_errors(storage.url), hold_scores(storage, name):
        columns = [*KEY_SCHEMA.names, "perceptual_hash"]
        parts = committed_parts(storage)
        rows = dict(zip(parts, read_ahead(parts, lambda part: read_part(storage, part, columns)), strict=True))
        embeddings = None if likeness.embeddings_of is None else Embeddings(storage, likeness.embeddings_of, rows)
        scorer = Scorer(name=name, version=VERSION, settings=_settings(likeness, rows, embeddings))
        _check_images(storage, scorer, rows)
        claim_scores(storage, scorer)
        done = set(scored_parts(storage, name))
        groups, num_duplicates = Groups(likeness), 0
        vectors = itertools.repeat(None) if embeddings is None else read_ahead(parts, embeddings.of_part)
        for (part, table), vectors_ND in zip(rows.items(), vectors, strict=False):
            found = groups.add_all(table, vectors_ND)
            num_duplicates += table.num_rows - found["duplicate_of"].null_count
            if part not in done and table.num_rows:
                write_scores(storage, scorer, part, pa.table({**_keys(table), **found}))
    return Duplicates(num_images=sum(table.num_rows for table in rows.values()), num_duplicates=num_duplicates)


def _settings(likeness: Likeness, rows: dict[str, pa.Table], embeddings: Embeddings | None) -> dict[str, Any]:
    """All that decides the groups: how near images must be, which images there are, and whose embeddings they have."""
    images = hashlib.sha256()
    for table in rows.values():
        images.update("\n".join(table["image_sha256"].to_pylist()).encode() + b"\n")
    return {
        "kind": "duplicates",
        "max_distance": likeness.max_distance,
        "embeddings_of": None if embeddings is None else dataclasses.asdict(embeddings.scorer),
        "min_similarity": None if embeddings is None else likeness.min_similarity,
        IMAGES: images.hexdigest(),
    }


def _check_images(storage: Storage, scorer: Scorer, rows: dict[str, pa.Table]) -> None:
    """Raise ScoresError if the groups in the folder are those of other images: a new image may begin or join any."""
    theirs = claimed_scorer(storage, scorer.name)
    if theirs is None or theirs.settings.get(IMAGES) in (None, scorer.settings[IMAGES]):
        return
    new_parts = rows.keys() - set(scored_parts(storage, scorer.name))
    num_new = sum(rows[part].num_rows for part in new_parts)
    change = f"gained {num_new:,} images" if num_new else "other images"
    raise ScoresError(
        f"{storage.url} has {change} since its duplicates were written to scores/{scorer.name}, and groups are found "
        "among all images; remove that folder and run the same command again, or give the scores another name with "
        "--name"
    )


class Groups:
    """The groups so far. `add_all` puts images into them, in their order."""

    def __init__(self, likeness: Likeness) -> None:
        self._likeness = likeness
        self._ids: list[str] = []  # of the first images
        self._hashes: list[int] = []
        self._vectors = np.empty((0, 0), np.float32)  # [capacity, D]; rows in use: one for each first image
        self._by_band: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        # Hashes that differ in d bits agree in at least one of d + 1 bands.
        edges = np.linspace(0, HASH_BITS, likeness.max_distance + 2).round().astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in itertools.pairwise(edges)]

    def add_all(self, rows: pa.Table, vectors_ND: np.ndarray | None) -> dict[str, pa.Array]:
        """The columns for these rows, which have `image_id` and `perceptual_hash`, and their unit vectors."""
        ids = rows["image_id"].to_pylist()
        hashes = [int(text, 16) for text in rows["perceptual_hash"].to_pylist()]
        firsts: list[int] = []
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            firsts += self._add_chunk(ids[chunk], hashes[chunk], None if vectors_ND is None else vectors_ND[chunk])
        names = [self._ids[first] for first in firsts]
        columns = {
            "cluster": pa.array(names, pa.string()),
            "duplicate_of": pa.array(
                [None if name == own else name for name, own in zip(names, ids, strict=True)], pa.string()
            ),
            "distance": pa.array(
                [(value ^ self._hashes[first]).bit_count() for value, first in zip(hashes, firsts, strict=True)],
                pa.int32(),
            ),
        }
        if vectors_ND is not None:
            columns["similarity"] = pa.array((vectors_ND * self._vectors[firsts]).sum(axis=1), pa.float32())
        return columns

    def _add_chunk(self, ids: Sequence[str], hashes: Sequence[int], vectors_ND: np.ndarray | None) -> list[int]:
        """The number of each image's first image, which may be itself."""
        num_before, firsts = len(self._ids), list[int]()
        if vectors_ND is not None:
            self._make_room(num_before + len(ids), vectors_ND.shape[1])
            near_NF = vectors_ND @ self._vectors[:num_before].T
            near_NN = vectors_ND @ vectors_ND.T
        new: list[int] = []  # rows of the chunk that are first images
        for row, (image_id, value) in enumerate(zip(ids, hashes, strict=True)):
            first = self._nearest_by_hash(value)
            if first is None and vectors_ND is not None:
                near_F = np.concatenate([near_NF[row], near_NN[row, new]])
                if len(near_F) and near_F.max() >= self._likeness.min_similarity:
                    first = int(near_F.argmax())
            if first is None:
                first = self._begin_group(image_id, value)
                new.append(row)
                if vectors_ND is not None:
                    self._vectors[first] = vectors_ND[row]
            firsts.append(first)
        return firsts

    def _nearest_by_hash(self, value: int) -> int | None:
        """The first image whose hash differs least; of several, the earliest."""
        candidates = {first for key in self._keys(value) for first in self._by_band[key]}
        near = [((value ^ self._hashes[first]).bit_count(), first) for first in candidates]
        distance, first = min(near, default=(HASH_BITS + 1, -1))
        return first if distance <= self._likeness.max_distance else None

    def _begin_group(self, image_id: str, value: int) -> int:
        self._ids.append(image_id)
        self._hashes.append(value)
        for key in self._keys(value):
            self._by_band[key].append(len(self._ids) - 1)
        return len(self._ids) - 1

    def _keys(self, value: int) -> list[tuple[int, int]]:
        return [(low, value >> low & mask) for low, mask in self._bands]

    def _make_room(self, num_rows: int, num_dimensions: int) -> None:
        if len(self._vectors) < num_rows:
            grown = np.zeros((max(num_rows, 2 * len(self._vectors)), num_dimensions), np.float32)
            if len(self._ids):
                grown[: len(self._ids)] = self._vectors[: len(self._ids)]
            self._vectors = grown


def _keys(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: rows[name].cast(pa.string()) for name in KEY_SCHEMA.names}
