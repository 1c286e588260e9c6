"""The embeddings that a scorer wrote, as unit vectors, part by part of the manifest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from workflows.scores.parts import (
    Scorer,
    ScoresError,
    claimed_scorer,
    read_scores,
    read_scores_schema,
    scored_parts,
    scorer_of,
    scores_of_rows,
)
from workflows.storage.store import Storage

EMBEDDING = "embedding"  # the column of a scorer that `--embeddings` wrote


class Embeddings:
    """The embeddings by the scorer of this name. `scorer` says which one that is; `num_of` is the number of images of
    each part.

    Raises ScoresError if it has not scored every part.
    """

    def __init__(self, storage: Storage, name: str, num_of: Mapping[str, int]) -> None:
        self._storage, self._name = storage, name
        scored, scorer = set(scored_parts(storage, name)), claimed_scorer(storage, name)
        missing = [part for part, number in num_of.items() if number and part not in scored]
        if scorer is None or missing:
            raise ScoresError(
                f"--embeddings-from: scorer {name} has no scores for {len(missing):,} parts of {storage.url}; run "
                "`janus-batch score` with it and --embeddings first"
            )
        self.scorer: Scorer = scorer

    def of_rows(self, part: str, rows: pa.Table) -> np.ndarray:
        """The unit vectors of the rows of a part, float32 [rows, D]. Raises ScoresError for rows without them."""
        where = f"--embeddings-from: scorer {self._name}"
        schema = read_scores_schema(self._storage, self._name, part)
        if scorer_of(schema, part) != self.scorer:
            raise ScoresError(f"{where} scored part {part} with other settings than the first part")
        if EMBEDDING not in schema.names:
            raise ScoresError(
                f"{where} wrote no embeddings; run `janus-batch score` with --embeddings and another name"
            )
        scores = read_scores(self._storage, self._name, part, [EMBEDDING])
        column = scores_of_rows(rows, scores)[EMBEDDING].combine_chunks()
        if column.null_count:
            raise ScoresError(f"{where} has no embedding for some images of part {part}")
        numbers = column.flatten().to_numpy(zero_copy_only=False)
        vectors_ND: np.ndarray = numbers.reshape(len(column), -1).astype(np.float32)
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
        return vectors_ND
