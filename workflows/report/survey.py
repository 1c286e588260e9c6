"""One pass over a manifest for its totals: counts, statistics by guidance weight, groups, scores, quality rules and
throughput.

Reads no image. Memory grows with shards and hours, by ten bytes per image for the hashes, and by four for each score.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.output.parts import read_part
from workflows.output.read_ahead import read_ahead
from workflows.output.throughput import Throughput
from workflows.plan import split_part_id
from workflows.report.carried import MAX_CARRIED, Groups
from workflows.report.quality_rules import NEAR_DUPLICATE, QUALITY_RULES, RULE_NAMES, hash_values, near_duplicates
from workflows.report.scores import JUDGE_COLUMN, KEY_COLUMNS, Scores
from workflows.storage.store import Storage

# The largest value of each statistic, for the histograms; all start at 0.
STATISTICS = {"mean_saturation": 1.0, "contrast": 0.5, "clipped_fraction": 1.0, "entropy": 8.0}
NUM_BINS = 32
MAX_WEIGHTS = 12  # weights that are counted separately; prompt rows may bring any number of others
OTHER_WEIGHTS = None
NUM_CLEAREST = 60  # per quality rule
TYPICAL_SHARE = 1 / 3  # of a job's images: a rule that matches more describes the job, and finds no image to look at
COLUMNS = [
    *("prompt_id", "image_index", "cfg_weight", "width", "height", "device", "created_at", JUDGE_COLUMN),
    *(*STATISTICS, "perceptual_hash"),
]


@dataclass(kw_only=True, slots=True)
class WeightFacts:
    """The images of one guidance weight: their number, histograms and sums of the statistics, matches by rule."""

    num_images: int = 0
    histograms: dict[str, np.ndarray] = field(default_factory=lambda: {s: np.zeros(NUM_BINS, int) for s in STATISTICS})
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATISTICS, 0.0))
    num_matching: Counter[str] = field(default_factory=Counter)
    scores: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by name: float32, without NaN

    def add(self, columns: dict[str, np.ndarray], scores: dict[str, np.ndarray]) -> None:
        self.num_images += len(columns["contrast"])
        for name, top in STATISTICS.items():
            values = np.clip(columns[name], 0, top)
            self.histograms[name] += np.histogram(values, bins=NUM_BINS, range=(0, top))[0]
            self.sums[name] += float(columns[name].sum(dtype=np.float64))
        for rule in QUALITY_RULES:
            self.num_matching[rule.name] += int(rule.matches(columns).sum())
        for name, values in scores.items():
            self.scores.setdefault(name, []).append(values[~np.isnan(values)])


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class RuleMatch:
    """An image that a quality rule matches, ordered by severity, or one of the best or worst by a score. `row` is its
    row in the manifest part.
    """

    severity: float
    shard_id: str
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCount:
    """The counts of a manifest part. `num_repeated` of its prompts are also in an earlier part of the shard.

    `last_at` is when its last image was rendered, in microseconds since 1970.
    """

    shard_id: str
    num_prompts: int
    num_images: int
    num_repeated: int = 0
    last_at: int = 0


@dataclass(kw_only=True, slots=True)
class Survey:
    """The totals of a manifest. `weights` are in ascending order, with None last for all that have no entry."""

    shards: list[ShardCount] = field(default_factory=list)
    weights: dict[float | None, WeightFacts] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    devices: dict[str, Throughput] = field(default_factory=dict)
    groups: Groups = field(default_factory=Groups)
    clearest: dict[str, list[RuleMatch]] = field(default_factory=dict)
    num_matching: Counter[str] = field(default_factory=Counter)
    near_duplicates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)

    @property
    def typical_rules(self) -> set[str]:
        """The quality rules that match so many images that a match means nothing."""
        return {name for name in RULE_NAMES if self.num_matching[name] > TYPICAL_SHARE * max(self.num_images, 1)}

    @property
    def num_prompts(self) -> int:
        """Counts each prompt once, also if a retry made some of its images."""
        return sum(shard.num_prompts - shard.num_repeated for shard in self.shards)

    @property
    def throughput(self) -> Throughput:
        """The throughput of all devices together."""
        throughput = Throughput()
        for part in self.devices.values():
            throughput.merge(part)
        return throughput


def survey_manifest(storage: Storage, shard_ids: list[str], cfg_weights: Iterable[float]) -> Survey:
    """Read the manifest parts of committed shards. The job's `cfg_weights` are always counted separately."""
    survey, scores = Survey(weights={weight: WeightFacts() for weight in sorted(cfg_weights)}), Scores(storage)
    hashes: list[tuple[np.ndarray, np.ndarray]] = []
    # The prompts seen so far, for shards that have more than one part.
    prompts_of: dict[str, set[str]] = {split_part_id(part)[0]: set() for part in shard_ids if split_part_id(part)[1]}

    def read(shard_id: str) -> tuple[pa.Table, dict[str, np.ndarray]]:
        columns = [*COLUMNS, *(KEY_COLUMNS if scores else [])]
        table = read_part(storage, shard_id, columns, num_carried=MAX_CARRIED)
        return table.drop_columns([name for name in KEY_COLUMNS if name in columns]), scores.of_rows(shard_id, table)

    for shard_id, (table, found) in zip(shard_ids, read_ahead(shard_ids, read), strict=True):
        num_repeated = _count_repeated(prompts_of.get(split_part_id(shard_id)[0]), table)
        hashes.append(_add_shard(survey, shard_id, table, found, num_repeated))
    _count_near_duplicates(survey, hashes)
    survey.weights = dict(sorted(survey.weights.items(), key=lambda item: (item[0] is OTHER_WEIGHTS, item[0])))
    return survey


def _count_repeated(seen: set[str] | None, table: pa.Table) -> int:
    """How many prompts of a part are in earlier parts of its shard; `seen` is None if the shard has only one part."""
    if seen is None:
        return 0
    here = set(table["prompt_id"].to_pylist())
    num_repeated = len(here & seen)
    seen |= here
    return num_repeated


def _add_shard(
    survey: Survey, shard_id: str, table: pa.Table, scores: dict[str, np.ndarray], num_repeated: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add a manifest part. Returns its hashes, one per prompt and seed, and the number of images behind each."""
    columns = {name: table[name].to_numpy() for name in STATISTICS}
    prompts = np.asarray(table["prompt_id"].combine_chunks().dictionary_encode().indices)
    survey.shards.append(
        ShardCount(
            shard_id=shard_id,
            num_prompts=len(np.unique(prompts)),
            num_images=table.num_rows,
            num_repeated=num_repeated,
            last_at=pc.max(table["created_at"].cast(pa.int64())).as_py() or 0,
        )
    )
    matches = {rule.name: rule.matches(columns) for rule in QUALITY_RULES}
    _add_weights(survey, table["cfg_weight"].to_numpy(), columns, scores)
    _add_matches(survey, shard_id, columns, matches)
    _add_best_and_worst(survey, shard_id, scores)
    survey.groups.add(table.drop_columns(COLUMNS), matches)
    _add_times(survey, table)
    survey.sizes.update(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))
    keys = np.stack([prompts.astype(np.uint64), table["image_index"].to_numpy().astype(np.uint64)])
    rows = np.vstack([keys, hash_values(table["perceptual_hash"].to_pylist())])
    unique, counts = np.unique(rows, axis=1, return_counts=True)
    return unique[2], np.minimum(counts, 2**16 - 1).astype(np.uint16)


def _add_weights(
    survey: Survey, weights: np.ndarray, columns: dict[str, np.ndarray], scores: dict[str, np.ndarray]
) -> None:
    for weight in np.unique(weights).tolist():
        key = weight if weight in survey.weights or len(survey.weights) < MAX_WEIGHTS else OTHER_WEIGHTS
        is_here = weights == weight
        facts = survey.weights.setdefault(key, WeightFacts())
        of_weight = {name: values[is_here] for name, values in columns.items()}
        facts.add(of_weight, {name: values[is_here] for name, values in scores.items()})


def _add_matches(survey: Survey, shard_id: str, columns: dict[str, np.ndarray], matches: dict[str, np.ndarray]) -> None:
    """Count the images that each rule matches and keep the clearest cases."""
    for rule in QUALITY_RULES:
        rows = np.flatnonzero(matches[rule.name])
        survey.num_matching[rule.name] += len(rows)
        _keep_clearest(survey, rule.name, shard_id, rows, rule.severity(columns)[rows])


def _add_best_and_worst(survey: Survey, shard_id: str, scores: dict[str, np.ndarray]) -> None:
    for name, values in scores.items():
        rows = np.flatnonzero(~np.isnan(values))
        _keep_clearest(survey, f"highest {name}", shard_id, rows, values[rows])
        _keep_clearest(survey, f"lowest {name}", shard_id, rows, -values[rows])


def _keep_clearest(survey: Survey, name: str, shard_id: str, rows: np.ndarray, severity: np.ndarray) -> None:
    clearest = np.argsort(-severity, kind="stable")[:NUM_CLEAREST]
    here = [RuleMatch(severity=float(severity[i]), shard_id=shard_id, row=int(rows[i])) for i in clearest]
    survey.clearest[name] = heapq.nlargest(NUM_CLEAREST, [*survey.clearest.get(name, []), *here])


def _add_times(survey: Survey, table: pa.Table) -> None:
    times = table["created_at"].cast(pa.int64()).to_numpy()
    for device in pc.unique(table["device"]).to_pylist():
        is_here = pc.equal(table["device"], device).to_numpy()
        survey.devices.setdefault(device, Throughput()).add(times[is_here])


def _count_near_duplicates(survey: Survey, hashes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    if not hashes:
        return
    values = np.concatenate([values for values, _ in hashes])
    counts = np.concatenate([counts for _, counts in hashes])
    survey.near_duplicates = near_duplicates(values)
    survey.num_matching[NEAR_DUPLICATE] = int(counts[np.isin(values, survey.near_duplicates)].sum())
