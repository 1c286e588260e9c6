"""The pairs of two outputs: images of the same prompt id, seed and image index, found by one pass over each manifest.

Memory grows by some 25 bytes per image, and by four for each score; reads no image.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workflows.output.manifest import NUM_READERS
from workflows.output.parts import read_part
from workflows.report.scores import JUDGE_COLUMN, KEY_COLUMNS, Scores
from workflows.storage.store import Storage

COLUMNS = ["prompt_id", "prompt", "image_index", "seed", "row_seed", JUDGE_COLUMN, *KEY_COLUMNS]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keys:
    """The images of an output in the order of its manifest.

    * `keys`, `prompts`: uint64 [num_images], hashes of what pairs an image and of its prompt.
    * `parts`, `rows`: int64 [num_images], where each image is: the number of its manifest part, and the row in it.
    * `scores`: float32 [num_images] by name, NaN for none.
    """

    keys: np.ndarray
    prompts: np.ndarray
    parts: np.ndarray
    rows: np.ndarray
    scores: dict[str, np.ndarray]

    def places_of(self, keys: np.ndarray) -> dict[int, np.ndarray]:
        """The rows of the images with these keys, by the number of their manifest part."""
        found = np.flatnonzero(np.isin(self.keys, keys))
        places: dict[int, list[int]] = defaultdict(list)
        for part, row in zip(self.parts[found].tolist(), self.rows[found].tolist(), strict=True):
            places[part].append(row)
        return {part: np.array(rows, np.int64) for part, rows in places.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorePairs:
    """A score that both outputs have, over the pairs: the mean of each, and how often one is higher."""

    name: str
    num_pairs: int
    mean_first: float
    mean_second: float
    num_first_higher: int
    num_second_higher: int


def read_keys(storage: Storage, parts: Sequence[str]) -> Keys:
    """Raises DamagedFileError for a part that cannot be read."""
    scores = Scores(storage)

    def read(part: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        table = read_part(storage, part, COLUMNS)
        return _keys_of(table), _hashes(table["prompt"].to_pylist()), scores.of_rows(part, table)

    with ThreadPoolExecutor(NUM_READERS) as readers:
        found = list(readers.map(read, parts))
    lengths = [len(keys) for keys, _, _ in found]
    names = {name for _, _, of_part in found for name in of_part}
    return Keys(
        keys=_joined([keys for keys, _, _ in found], np.uint64),
        prompts=_joined([prompts for _, prompts, _ in found], np.uint64),
        parts=np.repeat(np.arange(len(parts)), lengths),
        rows=_joined([np.arange(length) for length in lengths], np.int64),
        scores={
            name: _joined(
                [part.get(name, np.full(n, np.nan)) for (_, _, part), n in zip(found, lengths, strict=True)], np.float32
            )
            for name in sorted(names)
        },
    )


def paired(first: Keys, second: Keys) -> np.ndarray:
    """The keys that both have, in the order of the first output."""
    keys, positions = np.unique(first.keys, return_index=True)
    is_common = np.isin(keys, second.keys)
    return keys[is_common][np.argsort(positions[is_common])]


def num_other_prompts(first: Keys, second: Keys, keys: np.ndarray) -> int:
    """How many pairs have another prompt in each output, under the same id."""
    prompts = [side.prompts[_first_positions(side, keys)] for side in (first, second)]
    return int((prompts[0] != prompts[1]).sum())


def compare_scores(first: Keys, second: Keys, keys: np.ndarray) -> list[ScorePairs]:
    """The scores that both have. At several weights, a side of a pair counts with its mean."""
    compared = []
    for name in sorted(first.scores.keys() & second.scores.keys()):
        before, after = (_means(side, name, keys) for side in (first, second))
        is_known = ~np.isnan(before) & ~np.isnan(after)
        before, after = before[is_known], after[is_known]
        if len(before):
            compared.append(
                ScorePairs(
                    name=name,
                    num_pairs=len(before),
                    mean_first=float(before.mean()),
                    mean_second=float(after.mean()),
                    num_first_higher=int((before > after).sum()),
                    num_second_higher=int((after > before).sum()),
                )
            )
    return compared


def _keys_of(table: pa.Table) -> np.ndarray:
    """A row with an `image_seed` has no `row_seed`: its own seed pairs it."""
    columns = [table[name].to_pylist() for name in ("prompt_id", "row_seed", "seed", "image_index")]
    return _hashes(
        f"{prompt_id}\0{f'image {seed}' if row_seed is None else row_seed}\0{index}"
        for prompt_id, row_seed, seed, index in zip(*columns, strict=True)
    )


def _hashes(texts: Iterable[str]) -> np.ndarray:
    """64 bits of each text's BLAKE2, uint64."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)


def _first_positions(side: Keys, keys: np.ndarray) -> np.ndarray:
    """The position of the first image with each key."""
    unique, positions = np.unique(side.keys, return_index=True)
    found: np.ndarray = positions[np.searchsorted(unique, keys)]
    return found


def _means(side: Keys, name: str, keys: np.ndarray) -> np.ndarray:
    """The mean score of each key's images, float64 [num_keys]; NaN if none has the score."""
    order = np.argsort(keys)
    values = side.scores[name]
    is_here = np.isin(side.keys, keys) & ~np.isnan(values)
    positions = order[np.searchsorted(keys, side.keys[is_here], sorter=order)]
    sums = np.bincount(positions, values[is_here], len(keys))
    counts = np.bincount(positions, minlength=len(keys))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _joined(arrays: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(arrays).astype(kind) if arrays else np.zeros(0, kind)
