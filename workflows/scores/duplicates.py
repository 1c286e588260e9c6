"""Finds images that look alike, from the perceptual hashes in the manifest and, if there are any, from embeddings.

In the order of the manifest, an image is a duplicate of the nearest earlier image that is no duplicate itself, if the
two are near enough. So groups have a first image, and no chain of small differences joins images that differ a lot.
The result depends on the manifest alone. Memory grows with the groups.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
VERSION = "duplicates-2"
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
    """Write `cluster` (the id of the group's first image, with `~2` if another group has it), `duplicate_of` (null for
    the first), `distance` and, with embeddings, `similarity` to the first, for every image of the output.

    Raises ScoresError if the folder has the duplicates among other images, or if embeddings are missing, and
    OutputInUseError if another run holds the folder.
    """
    with storage_errors(storage.url), hold_scores(storage, name):
        parts = committed_parts(storage)
        num_of, digest = _count_images(storage, parts)
        embeddings = None if likeness.embeddings_of is None else Embeddings(storage, likeness.embeddings_of, num_of)
        scorer = Scorer(name=name, version=VERSION, settings=_settings(likeness, digest, embeddings))
        _check_images(storage, scorer, num_of)
        claim_scores(storage, scorer)
        done, groups, num_duplicates = set(scored_parts(storage, name)), Groups(likeness), 0

        def read(part: str) -> tuple[pa.Table, np.ndarray | None]:
            rows = read_part(storage, part, [*KEY_SCHEMA.names, "perceptual_hash"])
            return rows, None if embeddings is None else embeddings.of_rows(part, rows)

        filled = [part for part, number in num_of.items() if number]
        for part, (rows, vectors_ND) in zip(filled, read_ahead(filled, read), strict=True):
            found = groups.add_all(rows, vectors_ND)
            num_duplicates += rows.num_rows - found["duplicate_of"].null_count
            if part not in done:
                write_scores(storage, scorer, part, pa.table({**_keys(rows), **found}))
    return Duplicates(num_images=sum(num_of.values()), num_duplicates=num_duplicates)


def _count_images(storage: Storage, parts: Sequence[str]) -> tuple[dict[str, int], str]:
    """The number of images of each part, and a digest of all images in their order."""
    num_of, digest = dict[str, int](), hashlib.sha256()
    tables = read_ahead(parts, lambda part: read_part(storage, part, ["image_sha256"]))
    for part, table in zip(parts, tables, strict=True):
        num_of[part] = table.num_rows
        digest.update("\n".join(table["image_sha256"].to_pylist()).encode() + b"\n")
    return num_of, digest.hexdigest()


def _settings(likeness: Likeness, digest: str, embeddings: Embeddings | None) -> dict[str, Any]:
    """All that decides the groups: how near images must be, which images there are, and whose embeddings they have."""
    return {
        "kind": "duplicates",
        "max_distance": likeness.max_distance,
        "embeddings_of": None if embeddings is None else dataclasses.asdict(embeddings.scorer),
        "min_similarity": None if embeddings is None else likeness.min_similarity,
        IMAGES: digest,
    }


def _check_images(storage: Storage, scorer: Scorer, num_of: Mapping[str, int]) -> None:
    """Raise ScoresError if the groups in the folder are those of other images: a new image may begin or join any."""
    theirs = claimed_scorer(storage, scorer.name)
    if theirs is None or theirs.settings.get(IMAGES) in (None, scorer.settings[IMAGES]):
        return
    num_new = sum(num_of[part] for part in num_of.keys() - set(scored_parts(storage, scorer.name)))
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
        self._num_groups: Counter[str] = Counter()  # by the id of the first image: prompt files may repeat ids
        self._names: list[str] = []  # of the groups
        self._hashes = np.empty(0, np.uint64)  # [capacity]; rows in use: one for each first image
        self._vectors = np.empty((0, 0), np.float32)  # [capacity, D]; the same rows
        self._by_band: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("I"))
        # Hashes that differ in d bits agree in at least one of d + 1 bands.
        edges = np.linspace(0, HASH_BITS, likeness.max_distance + 2).round().astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in itertools.pairwise(edges)]

    def add_all(self, rows: pa.Table, vectors_ND: np.ndarray | None) -> dict[str, pa.Array]:
        """The columns for these rows, which have `image_id` and `perceptual_hash`, and their unit vectors."""
        ids = rows["image_id"].to_pylist()
        hashes = [int(text, 16) for text in rows["perceptual_hash"].to_pylist()]
        firsts, num_before = list[int](), len(self._ids)
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            firsts += self._add_chunk(ids[chunk], hashes[chunk], None if vectors_ND is None else vectors_ND[chunk])
        # A group is new, and its image the first one, where its number is the next one.
        highest = np.maximum.accumulate([num_before - 1, *firsts])
        is_first = highest[1:] > highest[:-1]
        columns = {
            "cluster": pa.array([self._names[first] for first in firsts], pa.string()),
            "duplicate_of": pa.array([self._ids[first] for first in firsts], pa.string(), mask=is_first),
            "distance": pa.array(np.bitwise_count(np.array(hashes, np.uint64) ^ self._hashes[firsts]), pa.int32()),
        }
        if vectors_ND is not None:
            columns["similarity"] = pa.array((vectors_ND * self._vectors[firsts]).sum(axis=1), pa.float32())
        return columns

    def _add_chunk(self, ids: Sequence[str], hashes: Sequence[int], vectors_ND: np.ndarray | None) -> list[int]:
        """The number of each image's first image, which may be itself."""
        num_before, firsts = len(self._ids), list[int]()
        self._make_room(num_before + len(ids), None if vectors_ND is None else vectors_ND.shape[1])
        if vectors_ND is not None:
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
        lists = [self._by_band[key] for key in self._keys(value) if key in self._by_band]
        if not lists:
            return None
        candidates = np.concatenate([np.frombuffer(one, np.uint32) for one in lists])
        distances = np.bitwise_count(self._hashes[candidates] ^ np.uint64(value))
        distance = distances.min()
        return int(candidates[distances == distance].min()) if distance <= self._likeness.max_distance else None

    def _begin_group(self, image_id: str, value: int) -> int:
        first = len(self._ids)
        self._num_groups[image_id] += 1
        number = self._num_groups[image_id]
        self._ids.append(image_id)
        self._names.append(image_id if number == 1 else f"{image_id}~{number}")
        self._hashes[first] = value
        for key in self._keys(value):
            self._by_band[key].append(first)
        return first

    def _keys(self, value: int) -> list[tuple[int, int]]:
        return [(low, value >> low & mask) for low, mask in self._bands]

    def _make_room(self, num_rows: int, num_dimensions: int | None) -> None:
        num_held = len(self._ids)
        if len(self._hashes) >= num_rows:
            return
        capacity = max(num_rows, 2 * len(self._hashes))
        hashes, vectors = np.empty(capacity, np.uint64), np.empty((capacity, num_dimensions or 0), np.float32)
        hashes[:num_held] = self._hashes[:num_held]
        vectors[:num_held] = self._vectors[:num_held] if num_held else 0
        self._hashes, self._vectors = hashes, vectors


def _keys(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: rows[name].cast(pa.string()) for name in KEY_SCHEMA.names}
