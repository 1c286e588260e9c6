"""The rules of an export: what each keeps, counts and refuses, and that they are independent of shards and order."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from tests.support.exports import export, finished, finished_with, load_splits, metadata_of, score, score_of
from tests.support.toy_job import bytes_of, make_job, manifest_of, recipe, write_prompts
from tests.workflows.test_retry_rejected import Fixed, retry
from workflows.export.layouts.layout import ExportError
from workflows.export.rules import Rules, Split, read_splits
from workflows.job import RenderJob
from workflows.row_filter import RowFilterError
from workflows.scores.parts import Scorer, scores_file
from workflows.storage.store import Storage

CLIP = Scorer(name="clip", version="1", checkpoint="org/clip", weights_sha256="a" * 64, settings={"dtype": "float32"})
TWINS = Scorer(name="duplicates", version="2")
FOUR = recipe(images_per_prompt=4)


def scored(folder: Path, num_prompts: int = 10, **changes: Any) -> RenderJob:
    """Four images of each prompt, scored by two scorers, in shards of four prompts."""
    prompts = write_prompts(folder / "prompts.parquet", {"prompt": [f"prompt {n}" for n in range(num_prompts)],
                                                         "kind": ["even", "odd"] * (num_prompts // 2)})  # fmt: skip
    job = finished(make_job(prompts, folder / "out", recipe=FOUR, **changes))
    score(job, CLIP, similarity=score_of)
    score(job, TWINS, cluster=lambda image_id: image_id[:4], distance=lambda image_id: 1 - score_of(image_id))
    return job


def ids_in(folder: Path) -> list[str]:
    return sorted(metadata_of(folder)["image_id"].to_pylist())


def all_ids(job: RenderJob) -> list[str]:
    return sorted(row["image_id"] for row in manifest_of(job))


# ---- conditions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("clip > 0.5", lambda row: score_of(row["image_id"]) > 0.5),
        ("duplicates.distance <= 0.5", lambda row: 1 - score_of(row["image_id"]) <= 0.5),
        ("kind = 'odd' and image_index < 2", lambda row: row["kind"] == "odd" and row["image_index"] < 2),
        ("1 = 1", lambda row: True),
        ("clip > 0.3 or prompt like '%7'", lambda row: score_of(row["image_id"]) > 0.3 or row["prompt"].endswith("7")),
    ],
)
def test_a_condition_reads_the_manifest_carried_columns_and_scores(tmp_path: Path, where: str, keeps: Any) -> None:
    job = scored(tmp_path)

    done = export(job, tmp_path / "ds", "imagefolder", rules=Rules(where=(where,)))

    kept = sorted(row["image_id"] for row in manifest_of(job) if keeps(row))
    assert 0 < len(kept) <= 40
    assert ids_in(tmp_path / "ds") == kept
    assert done.removed == {f"--where {where}": 40 - len(kept)}


def test_each_condition_counts_what_it_removes_of_what_is_left(tmp_path: Path) -> None:
    job = scored(tmp_path)

    done = export(job, tmp_path / "ds", "imagefolder", rules=Rules(where=("kind = 'odd'", "image_index = 0")))

    assert done.removed == {"--where kind = 'odd'": 20, "--where image_index = 0": 15}
    assert done.written.num_images == 5


def test_an_export_holds_the_scores(tmp_path: Path) -> None:
    job = scored(tmp_path)

    export(job, tmp_path / "ds", "parquet")

    rows = load_splits(tmp_path / "ds")["train"]
    assert {row["image_id"]: row["clip"] for row in rows} == {name: score_of(name) for name in all_ids(job)}
    assert rows[0]["duplicates"] == {
        "cluster": rows[0]["image_id"][:4],
        "distance": 1 - score_of(rows[0]["image_id"]),
    }


def test_images_without_scores_stop_a_rule_that_reads_them(tmp_path: Path) -> None:
    job = scored(tmp_path)
    part = sorted((tmp_path / "out/manifest").iterdir())[1].stem
    (tmp_path / "out" / scores_file("clip", part)).unlink()
    rules = Rules(where=("clip >= 0",))

    with pytest.raises(
        ExportError, match=r"16 of 40 images have no scores of clip.*score .*/out --scorer clip --checkpoint org/clip`"
    ):
        export(job, tmp_path / "ds", "imagefolder", rules=rules)
    assert not (tmp_path / "ds").exists()
    export(job, tmp_path / "others", "imagefolder", rules=Rules(where=("duplicates.distance >= 0",)))
    done = export(job, tmp_path / "ds", "imagefolder", rules=rules, allow_incomplete=True)
    assert done.removed == {"--where clip >= 0": 16}


def test_a_score_of_other_bytes_does_not_count(tmp_path: Path) -> None:
    job = scored(tmp_path, 4)
    score(job, Scorer(name="old", version="1"), value=score_of)
    storage_part = tmp_path / "out" / scores_file("old", next((tmp_path / "out/manifest").iterdir()).stem)
    table = pq.read_table(storage_part)
    pq.write_table(table.set_column(1, "image_sha256", pc.utf8_reverse(table["image_sha256"])), storage_part)

    with pytest.raises(ExportError, match=r"16 of 16 images have no scores of old"):
        export(job, tmp_path / "ds", "imagefolder", rules=Rules(where=("old > 0",)))


def test_a_carried_column_with_the_name_of_a_scorer_is_kept_under_another_name(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"clip": ["x", "y"], "source_clip": ["z", "z"]})
    score(job, CLIP, similarity=score_of)

    export(job, tmp_path / "ds", "imagefolder", rules=Rules(where=("clip >= 0", "source_source_clip = 'x'")))

    table = metadata_of(tmp_path / "ds")
    assert table.select(["source_source_clip", "source_clip"]).to_pylist() == [
        {"source_source_clip": "x", "source_clip": "z"}
    ]


def test_scores_of_two_scorers_in_one_folder_are_refused(tmp_path: Path) -> None:
    job = scored(tmp_path)
    part = sorted((tmp_path / "out/manifest").iterdir())[1].stem
    path = tmp_path / "out" / scores_file("clip", part)
    table = pq.read_table(path)
    metadata = {b"janus_batch.scorer": b'{"name": "clip", "version": "9"}'}
    pq.write_table(table.replace_schema_metadata(metadata), path)

    with pytest.raises(ExportError, match=r"scores/clip holds scores of two scorers: version 1 and, in .*version 9"):
        export(job, tmp_path / "ds", "imagefolder")


@pytest.mark.parametrize(
    "where", ["clop > 1", "clip", "clip > (select 1)", "clip > 1; drop table rows", "random() < 1"]
)
def test_a_condition_that_is_wrong_is_refused_before_anything_is_written(tmp_path: Path, where: str) -> None:
    job = scored(tmp_path, 4)

    with pytest.raises(RowFilterError, match=r"^--where: "):
        export(job, tmp_path / "ds", "imagefolder", rules=Rules(where=(where,)))
    assert not (tmp_path / "ds").exists()


def test_rules_that_keep_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no images to export: every image is removed by the rules"):
        export(scored(tmp_path, 4), tmp_path / "ds", "imagefolder", rules=Rules(where=("clip > 2",)))


# ---- the best of each prompt ---------------------------------------------------------------------------------------


def test_top_keeps_the_best_images_of_each_prompt(tmp_path: Path) -> None:
    job = scored(tmp_path)

    done = export(job, tmp_path / "ds", "imagefolder", rules=Rules(top=2, by="clip"))

    by_prompt: dict[str, list[str]] = {}
    for row in manifest_of(job):
        by_prompt.setdefault(row["prompt_id"], []).append(row["image_id"])
    best = [name for names in by_prompt.values() for name in sorted(names, key=score_of)[-2:]]
    assert ids_in(tmp_path / "ds") == sorted(best)
    assert done.removed == {"--top 2 --by clip": 20}


def test_of_equal_images_the_first_one_is_kept(tmp_path: Path) -> None:
    job = scored(tmp_path, 4)
    score(job, Scorer(name="same", version="1"), value=lambda _: 1)

    export(job, tmp_path / "ds", "imagefolder", rules=Rules(top=1, by="same"))

    assert [name[-2:] for name in ids_in(tmp_path / "ds")] == ["_0"] * 4


def test_images_of_a_retry_compete_with_the_others_of_their_prompt(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "prompt": ["a", "toy:nan b"]}
    job = finished_with(tmp_path, columns, recipe=FOUR)
    retry(job, Fixed)
    score(job, CLIP, similarity=score_of)

    done = export(job, tmp_path / "ds", "imagefolder", rules=Rules(top=1, by="clip"))

    assert (done.written.num_images, done.num_shards) == (2, 1)


@pytest.mark.parametrize("by", ["kind", "clop", "duplicates", "duplicates.cluster", "clip.similarity", "created_at"])
def test_a_column_that_holds_no_numbers_is_refused_with_those_that_do(tmp_path: Path, by: str) -> None:
    job = scored(tmp_path, 4)

    alike = r"; did you mean clip\?" if by == "clop" else ""
    message = rf"got '{by}'{alike}; they are clip, duplicates.distance, image_index, "
    with pytest.raises(ExportError, match=message):
        export(job, tmp_path / "ds", "imagefolder", rules=Rules(top=1, by=by))


# ---- samples and splits --------------------------------------------------------------------------------------------


def test_a_sample_has_its_size_and_follows_from_the_seed(tmp_path: Path) -> None:
    job = scored(tmp_path)
    for name, seed, size in (("a", 0, 7), ("b", 0, 7), ("c", 1, 7), ("d", 0, 20), ("all", 0, 99)):
        export(job, tmp_path / name, "imagefolder", rules=Rules(sample=size, seed=seed))

    ids = {name: ids_in(tmp_path / name) for name in ("a", "b", "c", "d", "all")}
    assert [len(ids[name]) for name in ids] == [7, 7, 7, 20, 40]
    assert ids["a"] == ids["b"]
    assert ids["a"] != ids["c"]
    assert set(ids["a"]) < set(ids["d"])


def test_images_of_one_prompt_are_in_one_split(tmp_path: Path) -> None:
    texts = [f"prompt {n % 20}" for n in range(40)]  # each text in two rows, of two shards
    job = finished(make_job(write_prompts(tmp_path / "p.parquet", {"prompt": texts}), tmp_path / "out", recipe=FOUR))

    done = export(job, tmp_path / "ds", "parquet", rules=Rules(splits=read_splits("train=0.5,validation=0.3,test=0.2")))

    splits = load_splits(tmp_path / "ds")
    prompts = {name: set(rows["prompt"]) for name, rows in splits.items()}
    assert set(prompts) == {"train", "validation", "test"}
    assert sum(map(len, prompts.values())) == len(set().union(*prompts.values())) == 20
    assert {name: len(rows) for name, rows in splits.items()} == {
        name: of_split.num_images for name, of_split in done.splits.items()
    }
    assert all(count == 8 for rows in splits.values() for count in Counter(rows["prompt"]).values())


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_every_dataset_layout_has_splits(tmp_path: Path, layout: str) -> None:
    job = scored(tmp_path)

    export(job, tmp_path / "ds", layout, rules=Rules(splits=read_splits("train=0.6,test=0.4")))

    splits = load_splits(tmp_path / "ds")
    assert set(splits) == {"train", "test"}
    assert len(splits["train"]) + len(splits["test"]) == 40


def test_a_split_that_gets_no_prompt_is_not_in_the_card(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a"]})

    export(job, tmp_path / "ds", "parquet", rules=Rules(splits=read_splits("train=0.999999,test=0.000001")))

    assert set(load_splits(tmp_path / "ds")) == {"train"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.9,test=0.2", r"must add up to 1, got 1.1"),
        ("train=0.5,Train=0.5", "names each split once"),
        ("all=0.5,rest=0.5", "cannot name a split all"),
        ("train", "takes names of letters, digits and _ with shares above 0"),
        ("train=1,test=0", "with shares above 0"),
        ("../x=1", "takes names"),
        ("a b=1", "takes names"),
        ("train=nan", "takes names"),
        ("train=inf", "takes names"),
        ("", "takes names"),
    ],
)
def test_splits_that_are_wrong_are_refused(text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read_splits(text)


def test_splits_are_read() -> None:
    assert read_splits("train=0.98, test=0.02") == (Split(name="train", share=0.98), Split(name="test", share=0.02))


@pytest.mark.parametrize("layout", ["geneval", "dpg"])
def test_a_benchmark_has_neither_splits_nor_pairs(tmp_path: Path, layout: str) -> None:
    job = finished_with(tmp_path, {"id": ["p1"], "metadata": ["{}"]})

    with pytest.raises(ExportError, match=f"--split needs a layout for datasets, and {layout} is the folder of a"):
        export(job, tmp_path / "ds", layout, rules=Rules(splits=read_splits("train=1")))
    with pytest.raises(ExportError, match=rf"--pairs needs a layout with pairs \(parquet, .*\), got {layout}"):
        export(job, tmp_path / "ds", layout, rules=Rules(pairs="width"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top": 1}, "--top N and --by COLUMN belong together"),
        ({"by": "clip"}, "--top N and --by COLUMN belong together"),
        ({"seed": 1}, "--seed is the seed of --sample N, got only --seed 1"),
    ],
)
def test_options_that_belong_together_are_given_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Rules(**fields)


# ---- the same bytes, resumed, and described ------------------------------------------------------------------------

RULES = Rules(where=("clip > 0.2",), top=3, by="clip", sample=12, splits=read_splits("train=0.7,test=0.3"))


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
def test_a_second_export_is_the_same_byte_for_byte(tmp_path: Path, layout: str) -> None:
    job = scored(tmp_path)
    export(job, tmp_path / "one", layout, rules=RULES)

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(job, tmp_path / "two", layout, rules=RULES, on_shard=stop)
    done = export(job, tmp_path / "two", layout, rules=RULES)

    assert done.num_shards_before == 2
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset", "parquet"])
@pytest.mark.parametrize("is_written", [False, True])
def test_an_export_interrupted_at_any_write_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, is_written: bool
) -> None:
    job, write = scored(tmp_path), Storage.write
    rules = Rules(top=1, by="clip", splits=read_splits("train=0.7,test=0.3"))
    export(job, tmp_path / "whole", layout, rules=rules)
    num_left = num_interruptions = 0

    def write_some(storage: Storage, name: str, data: bytes) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left >= 0 or is_written:
            write(storage, name, data)
        if num_left < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "write", write_some)
    while not (tmp_path / "ds/README.md").exists():
        num_left = num_interruptions
        with contextlib.suppress(KeyboardInterrupt):
            export(job, tmp_path / "ds", layout, rules=rules)
        num_interruptions += 1

    assert num_interruptions > 3
    assert bytes_of(tmp_path / "ds") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_an_export_follows_new_scores_and_drops_files_that_it_does_not_hold_any_more(
    tmp_path: Path, layout: str
) -> None:
    job = scored(tmp_path)
    parts = sorted(path.stem for path in (tmp_path / "out/manifest").iterdir())
    held = {part: (tmp_path / "out" / scores_file("clip", part)).read_bytes() for part in parts[1:]}
    for part in held:
        (tmp_path / "out" / scores_file("clip", part)).unlink()
    rules = Rules(where=("clip >= 0",), sample=10)
    export(job, tmp_path / "ds", layout, rules=rules, allow_incomplete=True)
    mine = ("LICENSE", "notes/mine.txt", "data/mine.parquet", "train/mine.png")
    for name in mine:
        (tmp_path / "ds" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ds" / name).write_text("mine")
    for part, data in held.items():
        (tmp_path / "out" / scores_file("clip", part)).write_bytes(data)

    done = export(job, tmp_path / "ds", layout, rules=rules)

    assert done.num_files_removed >= (1 if layout == "imagefolder" else 0)
    export(job, tmp_path / "whole", layout, rules=rules)
    assert bytes_of(tmp_path / "ds") == bytes_of(tmp_path / "whole") | dict.fromkeys(mine, b"mine")


def test_an_export_with_other_rules_is_not_added_to(tmp_path: Path) -> None:
    job = scored(tmp_path, 4)
    export(job, tmp_path / "ds", "imagefolder", rules=Rules(sample=3))

    with pytest.raises(ExportError, match=r'an export of rules \{"sample": 3, "seed": 0\}, this one has none'):
        export(job, tmp_path / "ds", "imagefolder")


def test_the_card_lists_rules_counts_scorers_splits_and_the_disclosure(tmp_path: Path) -> None:
    done = export(scored(tmp_path), tmp_path / "ds", "parquet", rules=RULES)

    card = DatasetCard.load(tmp_path / "ds/README.md")
    facts = card.data.janus_batch
    assert facts["rules"] == {"where": ["clip > 0.2"], "top": 3, "by": "clip", "sample": 12, "seed": 0,
                              "splits": {"train": 0.7, "test": 0.3}}  # fmt: skip
    assert facts["num_removed"] == done.removed
    assert [scorer["name"] for scorer in facts["scorers"]] == ["clip", "duplicates"]
    num_removed = done.removed["--where clip > 0.2"]
    assert rf"| --where clip \> 0.2 | the images that meet this condition | {num_removed} |" in card.text
    assert "| model | org/clip |" in card.text
    assert "trainedAlgorithmicMedia" in card.text
    assert f"| test | {done.splits['test'].num_images} images of " in card.text
