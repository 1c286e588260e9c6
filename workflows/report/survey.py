"""One pass over a manifest for its totals: counts, statistics per guidance weight, flags and pace.

Memory grows with shards and hours, and by ten bytes per image for the hashes; no picture is read.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.output.manifest import NUM_READERS, manifest_name, read_table
from workflows.plan import split_part_id
from workflows.report.quality_rules import FLAGS, LOOKALIKE, hash_values, lookalikes
from workflows.report.throughput import Pace
from workflows.storage.store import Storage

# The largest value of each statistic, for the histograms; all begin at 0.
STATISTICS = {"mean_saturation": 1.0, "contrast": 0.5, "clipped_fraction": 1.0, "entropy": 8.0}
NUM_BINS = 32
MAX_WEIGHTS = 12  # weights with numbers of their own; prompt rows may bring any number of others
OTHER_WEIGHTS = None
NUM_WORST = 60  # of each flag
COLUMNS = [
    *("prompt_id", "image_index", "cfg_weight", "width", "height", "device", "created_at"),
    *(*STATISTICS, "perceptual_hash"),
]


@dataclass(kw_only=True, slots=True)
class WeightFacts:
    """The images of one guidance weight: how many, histograms and sums of each statistic, how many have each flag."""

    num_images: int = 0
    histograms: dict[str, np.ndarray] = field(default_factory=lambda: {s: np.zeros(NUM_BINS, int) for s in STATISTICS})
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATISTICS, 0.0))
    flagged: Counter[str] = field(default_factory=Counter)

    def add(self, columns: dict[str, np.ndarray]) -> None:
        self.num_images += len(columns["contrast"])
        for name, top in STATISTICS.items():
            values = np.clip(columns[name], 0, top)
            self.histograms[name] += np.histogram(values, bins=NUM_BINS, range=(0, top))[0]
            self.sums[name] += float(columns[name].sum(dtype=np.float64))
        for flag in FLAGS:
            self.flagged[flag.name] += int(flag.holds(columns).sum())


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Flagged:
    """Where a flagged image stands, ordered by how strong a case it is."""

    severity: float
    shard_id: str
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCount:
    """A part of the manifest. `num_repeated` of its prompts have images in another part of the same shard, counted."""

    shard_id: str
    num_prompts: int
    num_images: int
    num_repeated: int = 0


@dataclass(kw_only=True, slots=True)
class Survey:
    """The totals of a manifest. `weights` are in rising order, those without numbers of their own last, as None."""

    shards: list[ShardCount] = field(default_factory=list)
    weights: dict[float | None, WeightFacts] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    devices: dict[str, Pace] = field(default_factory=dict)
    worst: dict[str, list[Flagged]] = field(default_factory=lambda: {flag.name: [] for flag in FLAGS})
    flagged: Counter[str] = field(default_factory=Counter)
    lookalikes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)

    @property
    def num_prompts(self) -> int:
        """Each prompt once, also where some of its images came from a retry."""
        return sum(shard.num_prompts - shard.num_repeated for shard in self.shards)

    @property
    def pace(self) -> Pace:
        """The pace of all devices together."""
        pace = Pace()
        for part in self.devices.values():
            pace.merge(part)
        return pace


def survey_manifest(storage: Storage, shard_ids: list[str], cfg_weights: Iterable[float]) -> Survey:
    """Read the manifest parts of committed shards; `cfg_weights` are the job's, which get numbers of their own."""
    survey = Survey(weights={weight: WeightFacts() for weight in sorted(cfg_weights)})
    hashes: list[tuple[np.ndarray, np.ndarray]] = []
    # The prompts of the shards that have more parts than their own.
    prompts_of: dict[str, set[str]] = {split_part_id(part)[0]: set() for part in shard_ids if split_part_id(part)[1]}

    def read(shard_id: str) -> pa.Table:
        return read_table(storage, manifest_name(shard_id), COLUMNS)

    for shard_id, table in zip(shard_ids, _in_order(read, shard_ids), strict=True):
        num_repeated = _count_repeated(prompts_of.get(split_part_id(shard_id)[0]), table)
        hashes.append(_add_shard(survey, shard_id, table, num_repeated))
    _count_lookalikes(survey, hashes)
    survey.weights = dict(sorted(survey.weights.items(), key=lambda item: (item[0] is OTHER_WEIGHTS, item[0])))
    return survey


def _in_order(read: Callable[[str], pa.Table], shard_ids: list[str]) -> Iterable[pa.Table]:
    """Tables read ahead by as many as there are readers and no further."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for start in range(0, len(shard_ids), NUM_READERS):
            yield from readers.map(read, shard_ids[start : start + NUM_READERS])


def _count_repeated(seen: set[str] | None, table: pa.Table) -> int:
    """How many prompts of a part stand in the parts of its shard before it; `seen` is None where it has one part."""
    if seen is None:
        return 0
    here = set(table["prompt_id"].to_pylist())
    num_repeated = len(here & seen)
    seen |= here
    return num_repeated


def _add_shard(survey: Survey, shard_id: str, table: pa.Table, num_repeated: int) -> tuple[np.ndarray, np.ndarray]:
    """Add a manifest part; its hashes, each once per prompt and seed, and how many images each stands for."""
    columns = {name: table[name].to_numpy() for name in STATISTICS}
    prompts = np.asarray(table["prompt_id"].combine_chunks().dictionary_encode().indices)
    survey.shards.append(
        ShardCount(
            shard_id=shard_id,
            num_prompts=len(np.unique(prompts)),
            num_images=table.num_rows,
            num_repeated=num_repeated,
        )
    )
    _add_weights(survey, table["cfg_weight"].to_numpy(), columns)
    _add_worst(survey, shard_id, columns)
    survey.sizes.update(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))
    times = table["created_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    for device in pc.unique(table["device"]).to_pylist():
        is_here = pc.equal(table["device"], device).to_numpy()
        survey.devices.setdefault(device, Pace()).add(times[is_here])
    keys = np.stack([prompts.astype(np.uint64), table["image_index"].to_numpy().astype(np.uint64)])
    rows = np.vstack([keys, hash_values(table["perceptual_hash"].to_pylist())])
    unique, counts = np.unique(rows, axis=1, return_counts=True)
    return unique[2], np.minimum(counts, 2**16 - 1).astype(np.uint16)


def _add_weights(survey: Survey, weights: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    for weight in np.unique(weights).tolist():
        key = weight if weight in survey.weights or len(survey.weights) < MAX_WEIGHTS else OTHER_WEIGHTS
        is_here = weights == weight
        facts = survey.weights.setdefault(key, WeightFacts())
        facts.add({name: values[is_here] for name, values in columns.items()})


def _add_worst(survey: Survey, shard_id: str, columns: dict[str, np.ndarray]) -> None:
    """Count the flagged images and keep the strongest cases of each flag."""
    for flag in FLAGS:
        rows = np.flatnonzero(flag.holds(columns))
        survey.flagged[flag.name] += len(rows)
        severity = flag.severity(columns)[rows]
        strongest = np.argsort(-severity, kind="stable")[:NUM_WORST]
        here = [Flagged(severity=float(severity[i]), shard_id=shard_id, row=int(rows[i])) for i in strongest]
        survey.worst[flag.name] = heapq.nlargest(NUM_WORST, [*survey.worst[flag.name], *here])


def _count_lookalikes(survey: Survey, hashes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    if not hashes:
        return
    values = np.concatenate([values for values, _ in hashes])
    counts = np.concatenate([counts for _, counts in hashes])
    survey.lookalikes = lookalikes(values)
    survey.flagged[LOOKALIKE] = int(counts[np.isin(values, survey.lookalikes)].sum())
