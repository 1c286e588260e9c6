"""report.html: what it shows of an output, and that no text from a prompt becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support import toy_job
from tests.support.report_page import Page
from workflows.job import Images, RenderJob
from workflows.output.claim import mark_success
from workflows.output.manifest import JUDGE_SCHEMA, committed_parts
from workflows.output.parts import read_part
from workflows.report import selection
from workflows.report.write import write_report
from workflows.scores.parts import Scorer, claim_scores, write_scores
from workflows.storage.errors import StorageError
from workflows.storage.store import Storage

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    'it\'s "quoted" & <b>bold</b> &lt;b&gt;',
    "<!-- <script>",
    "{{ 7 * 7 }} {% raw %}",
    "قطة \u202eevil\u202c",
    "🦊👩‍👩‍👧 日本",
    "line\u2028separators\u2029here",
]


def report_of(job: RenderJob) -> Page:
    storage = Storage(job.output, job.storage)
    assert write_report(storage).url == f"{job.output}/report.html"
    return Page(storage.read("report.html").decode())


def rendered(folder: Path, prompts: list, *, columns: dict | None = None, **changes) -> RenderJob:
    """A finished toy job."""
    path = toy_job.write_prompts(
        folder / "prompts.parquet", {"prompt": pa.array(prompts, pa.string()), **(columns or {})}
    )
    job = toy_job.make_job(path, folder / "out", **changes)
    toy_job.render(job)
    mark_success(job, 0, 0)
    return job


def test_the_top_of_the_page_describes_a_finished_job(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a", "b"], name="night <run>", recipe=toy_job.recipe(images_per_prompt=3))
    text = report_of(job).text
    for words in ("night <run>", "Finished", "toy family toy weights e3b0c44298", "Images 6", "Prompts 2", "Missing 0"):
        assert words in text
    for words in ("Guidance weight 5", "Temperature 1", "Seed 0", "Images per prompt 3", "float32", "64 × 64 png"):
        assert words in text


def test_an_unfinished_job_says_how_many_images_are_missing(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"] * 10})
    job = toy_job.make_job(path, tmp_path / "out", recipe=toy_job.recipe(images_per_prompt=2))
    toy_job.claim_output(job, {})
    toy_job.render_shard(job, next(toy_job.plan_job(job).remaining_shards()))

    text = report_of(job).text

    assert "Not finished" in text
    assert "Images 8" in text
    assert "Missing 12" in text


def test_an_output_without_images_has_a_report(tmp_path: Path) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a"] * 10})
    job = toy_job.make_job(path, tmp_path / "out", recipe=toy_job.recipe(cfg_weights=(1.0, 5.0)))
    toy_job.claim_output(job, {})
    assert "There are no images yet." in report_of(job).text


def test_the_images_are_shown_when_the_prompts_are_gone(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a"])
    Path(job.prompts).unlink()

    page = report_of(job)
    assert page.images["id"] == ["prompts-000000000_0"]
    assert re.search(
        r"Prompts cannot be read .* Missing unknown .* marked as finished. .*: .*prompts.parquet", page.text
    )
    assert "Finished" not in page.text

    (Path(job.output) / "_SUCCESS").unlink()
    text = report_of(job).text
    assert re.search(r"Not marked as finished .* Missing unknown .* cannot be read: .*prompts.parquet", text)


def test_hostile_prompts_stay_text(tmp_path: Path) -> None:
    columns = {"negative_prompt": HOSTILE, "id": [f"<b>{i}" for i in range(len(HOSTILE))], "<i>note": HOSTILE}
    job = rendered(
        tmp_path, HOSTILE, columns=columns, name="</title><script>", recipe=toy_job.recipe(cfg_weights=(1.0, 5.0))
    )
    harmless = {"note": [f"note {i}" for i in range(len(HOSTILE))]}
    recipe = toy_job.recipe(cfg_weights=(1.0, 5.0))
    plain = rendered(tmp_path / "plain", ["harmless"] * len(HOSTILE), columns=harmless, recipe=recipe)

    page, expected = report_of(job), report_of(plain)

    assert [prompt for _, prompt, _, _ in page.images["prompts"]] == HOSTILE
    assert [negative for _, _, negative, _ in page.images["prompts"]] == HOSTILE
    assert [carried for _, _, _, carried in page.images["prompts"]] == [[text] for text in HOSTILE]
    for prompt in HOSTILE[:3]:
        assert prompt in page.text
    assert page.text.count("</title><script>") == 2  # the title and the headline
    assert [tag for tag, _ in page.elements if tag != "span"] == [tag for tag, _ in expected.elements if tag != "span"]
    assert {name for _, attributes in page.elements for name in attributes} == {
        name for _, attributes in expected.elements for name in attributes
    }


def test_characters_that_html_cannot_hold_become_replacement_characters(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a\0b\x07c", "d" * 1500])
    page = report_of(job)
    assert [prompt for _, prompt, _, _ in page.images["prompts"]] == ["a\ufffdb\ufffdc", "d" * 1000 + " …"]
    assert "\0" not in (Path(job.output) / "report.html").read_text()


def test_carried_text_that_is_not_utf8_is_shown_with_replacement_characters(tmp_path: Path) -> None:
    broken = pa.array([b"caf\xe9", b"fine"]).view(pa.string())
    page = report_of(rendered(tmp_path, ["a", "b"], columns={"note": broken}))
    assert [carried for _, _, _, carried in page.images["prompts"]] == [["caf\ufffd"], ["fine"]]


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = report_of(rendered(tmp_path, ["a", "b"]))
    links = [a[name] for _, a in page.elements for name in ("src", "href", "action", "srcset", "data") if name in a]
    assert links
    assert all(re.match(r"data:image/(webp|png);base64,|#|images/|job\.json$", link) for link in links)
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_security_policy_allows_this_script_and_this_style_only(tmp_path: Path) -> None:
    page = report_of(rendered(tmp_path, ["a"]))
    policy = next(a["content"] for a in page.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for name, text in (("script-src", page.scripts["code"]), ("style-src", page.style)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert not [name for _, attributes in page.elements for name in attributes if name == "style" or name[:2] == "on"]


def test_a_small_image_is_shown_with_every_pixel(tmp_path: Path) -> None:
    job = rendered(tmp_path, [f"prompt {i}" for i in range(5)], recipe=toy_job.recipe(images_per_prompt=2))
    page = report_of(job)
    pairs = list(zip(page.images["location"], page.thumbnails(), strict=True))
    assert len(pairs) == 10
    for location, thumbnail in pairs:
        assert (np.asarray(Image.open(Path(job.output) / location)) == np.asarray(thumbnail)).all()
    assert [a["class"] for a in page.attributes("img") if a.get("src")] == ["pixels"] * 10


def test_an_image_links_to_its_file_for_any_id(tmp_path: Path) -> None:
    ids = ["plain", "a b", "50%25", "#1?x=2&y", "javascript:alert(1)", "“quoted”'\""]
    job = rendered(tmp_path, ["a"] * len(ids), columns={"id": ids})
    page = report_of(job)
    links = [a["href"] for a in page.attributes("a") if a.get("class") == "image"]
    assert links == page.images["link"]
    assert [(Path(job.output) / unquote(link)).is_file() for link in links] == [True] * len(ids)
    assert not [link for link in links if set(link) & set("?#:\"'")]


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_images_inside_packs_have_no_link(tmp_path: Path, layout: str) -> None:
    page = report_of(rendered(tmp_path, ["a", "b"], images=Images(layout=layout)))
    assert page.images["link"] == [None, None]
    assert [thumbnail.size for thumbnail in page.thumbnails()] == [(64, 64)] * 2


def test_a_sweep_is_a_grid_of_prompts_and_weights(tmp_path: Path) -> None:
    weights = (10.0, 1.0, 5.0)
    job = rendered(
        tmp_path,
        ["one", "two", "own weight"],
        columns={"cfg_weight": [None, None, 7.0]},
        recipe=toy_job.recipe(cfg_weights=weights, images_per_prompt=2),
    )

    page = report_of(job)

    cells = [i for i, (tag, a) in enumerate(page.elements) if tag == "td" and "data-column" in a]
    numbers = [int(page.elements[i + 1][1]["data-number"]) for i in cells]
    assert [page.elements[i][1]["data-column"] for i in cells] == ["weight 1", "weight 5", "weight 10"] * 2
    assert [page.images["cfg"][number] for number in numbers] == [1, 5, 10] * 2
    assert [page.images["index"][number] for number in numbers] == [0] * 6
    prompts = [page.images["prompts"][page.images["prompt"][number]][1] for number in numbers]
    assert prompts == ["one"] * 3 + ["two"] * 3
    assert page.data["columns"] == ["weight 1", "weight 5", "weight 10"]
    assert (page.images["row"].count(-1), page.images["column"].count(-1)) == (2, 2)  # the prompt with its own weight


def test_carried_columns_with_few_values_divide_the_job_into_groups(tmp_path: Path) -> None:
    columns = {"kind": ["color", None, "shape"] * 20, "url": [f"https://example.com/{i}" for i in range(60)]}
    job = rendered(tmp_path, [f"prompt {i}" for i in range(60)], columns=columns, shard_rows=7)

    page = report_of(job)

    assert page.data["carried"] == ["kind", "url"]
    assert page.data["groups"] == [{"carried": 0, "values": ["color", None, "shape"], "counts": [20, 20, 20]}]
    assert page.images["prompts"][1][3] == [None, "https://example.com/1"]
    assert "kind all color (20) (none) (20) shape (20)" in page.text


def test_group_counts_are_of_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_IMAGES", 10)
    columns = {"kind": ["color"] * 50 + ["shape"] * 10}
    page = report_of(rendered(tmp_path, [f"prompt {i}" for i in range(60)], columns=columns))
    assert page.data["groups"][0]["counts"] == [50, 10]
    assert "Search, sorting and filters act on the images of this page." in page.text


def test_a_rule_that_matches_most_images_is_typical_and_marks_none(tmp_path: Path) -> None:
    job = rendered(tmp_path, [f"prompt {i}" for i in range(12)])
    storage = Storage(job.output)
    for part in storage.names("manifest"):
        table = pq.read_table(f"{job.output}/manifest/{part}")
        for name in ("contrast", "mean_saturation"):
            index, zeros = table.schema.get_field_index(name), pa.array([0.0] * table.num_rows, pa.float32())
            table = table.set_column(index, table.schema.field(index), zeros)
        pq.write_table(table, f"{job.output}/manifest/{part}")

    page = report_of(job)

    assert page.data["typical"] == [page.data["rules"].index("blank")]
    assert "blank typical here" in page.text
    assert not [a for a in page.attributes("span") if a.get("class") == "mark"]


def test_scores_are_shown_in_the_order_of_the_images(tmp_path: Path) -> None:
    job = rendered(tmp_path, [f"prompt {i}" for i in range(10)])
    storage, scorer = Storage(job.output), Scorer(name="clip", version="1")
    claim_scores(storage, scorer)
    for part in committed_parts(storage)[1:]:
        keys = read_part(storage, part, ["image_id", "image_sha256"])
        values = [float(image_id[-3]) / 10 for image_id in keys["image_id"].to_pylist()]
        write_scores(storage, scorer, part, keys.append_column("score", pa.array(values)))

    page = report_of(job)

    assert page.data["scores"] == ["clip"]
    assert page.images["scores"] == [[None] * 4 + [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]]
    assert "Weight Scored Mean clip 5 6 0.65 0 1" in page.text


def test_scores_that_are_large_and_alike_are_shown(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a", "b"])
    storage, scorer = Storage(job.output), Scorer(name="mine", version="1")
    claim_scores(storage, scorer)
    for part in committed_parts(storage):
        keys = read_part(storage, part, ["image_id", "image_sha256"])
        write_scores(storage, scorer, part, keys.append_column("score", pa.array([1e17, 1e17])))

    assert report_of(job).images["scores"] == [[1e17, 1e17]]


@pytest.mark.parametrize("as_text", [True, False])
def test_columns_carried_from_the_manifest_of_a_judged_job_are_no_verdicts_of_this_one(
    tmp_path: Path, as_text: bool
) -> None:
    judged = toy_job.recipe(judge=toy_job.judge(best_of=2, caption_tokens=16))
    [row] = toy_job.manifest_of(rendered(tmp_path / "judged", ["a"], recipe=judged))
    columns = {name: [str(row[name]) if as_text else row[name]] for name in JUDGE_SCHEMA.names}
    job = rendered(tmp_path, ["a"], columns=columns)

    page = report_of(job)

    assert page.data["scores"] == []
    assert "candidates" not in page.images
    assert toy_job.faults_of(job) == []


def test_a_judged_job_shows_scores_captions_and_the_candidates_that_were_not_kept(tmp_path: Path) -> None:
    recipe = toy_job.recipe(judge=toy_job.judge(best_of=3, caption_tokens=16))
    job = rendered(tmp_path, ["a", "b"], recipe=recipe)

    page = report_of(job)

    first, second = toy_job.manifest_of(job)
    assert page.data["scores"] == ["judge_score"]
    assert page.images["scores"] == [[pytest.approx(row["judge_score"], rel=1e-3) for row in (first, second)]]
    assert page.images["caption"] == [first["judge_caption"], second["judge_caption"]]
    names, facts = zip(*page.images["candidates"][0], strict=True)
    assert [name.endswith("kept") for name in names] == [number == first["candidate"] for number in range(3)]
    assert [fact.rpartition(" ")[2] for fact in facts] == [str(seed) for seed in first["candidate_seeds"]]
    assert "best of 3" in page.text


def test_a_rejected_image_leaves_a_hole_in_the_grid(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["fine", "toy:nan"], recipe=toy_job.recipe(cfg_weights=(1.0, 5.0)))
    page = report_of(job)
    assert page.images["cfg"] == [1, 5]
    assert "2 the model's numbers became NaN Row Id Prompt Images 1 prompts-000000001 toy:nan 2" in page.text


def test_rejected_rows_are_grouped_by_reason(tmp_path: Path) -> None:
    prompts = ["", "x" * 2001, "y" * 3000, None, "fine", " "]
    text = report_of(rendered(tmp_path, prompts, recipe=toy_job.recipe(images_per_prompt=2))).text
    assert "Rejected 10" in text
    assert "4 prompt of … characters is longer than the toy engine's … Row Id Prompt Reason Images" in text
    assert "4 prompt is empty Row Id Prompt Images" in text
    assert "2 prompt is null Row Id Prompt Images 3 prompts-000000003 none 2" in text


def test_a_shard_without_images_is_counted(tmp_path: Path) -> None:
    page = report_of(rendered(tmp_path, ["", "", "fine"], shard_rows=2))
    assert "Images 1 Prompts 1 Rejected 2 Missing 0" in page.text


def test_missing_and_damaged_images_are_counted(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a", "b", "c"])
    gone, broken, _ = [Path(job.output) / row["image"] for row in toy_job.manifest_of(job)]
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:100])

    page = report_of(job)

    assert "Files missing or damaged" in page.text
    assert "2 of the images on this page could not be read" in page.text
    assert "Finished" not in page.text
    assert [thumbnail is None for thumbnail in page.thumbnails()] == [True, True, False]


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_another_picture_in_place_of_an_image_is_not_shown_as_it(tmp_path: Path, layout: str) -> None:
    job = rendered(tmp_path, ["a", "b"], images=Images(layout=layout))
    (part,) = (Path(job.output) / "manifest").iterdir()
    table = pq.read_table(part)
    swapped = table["image"].take([1, 0])
    pq.write_table(table.set_column(table.column_names.index("image"), table.field("image"), swapped), part)

    page = report_of(job)

    assert "2 of the images on this page could not be read" in page.text
    assert list(page.thumbnails()) == [None, None]


def test_a_missing_pack_does_not_prevent_the_report(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a", "b"], images=Images(layout="webdataset"))
    shutil.rmtree(Path(job.output) / "images")
    assert "2 of the images on this page could not be read" in report_of(job).text


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a"])
    (Path(job.output) / "report.html").write_text("old")
    assert "Images 1" in report_of(job).text


def test_a_seed_of_64_bits_keeps_every_digit(tmp_path: Path) -> None:
    job = rendered(tmp_path, ["a", "b", "c"])
    assert report_of(job).images["seed"] == [str(row["seed"]) for row in toy_job.manifest_of(job)]


def test_a_report_is_written_to_an_object_store(tmp_path: Path, s3_folder: str, s3_server) -> None:
    path = toy_job.write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a", "b"]})
    job = toy_job.make_job(path, s3_folder, storage=s3_server.storage_options)
    toy_job.render(job)
    page = report_of(job)
    assert [thumbnail.size for thumbnail in page.thumbnails()] == [(64, 64)] * 2


def test_a_folder_that_is_not_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has no job.json: it is not an output of janus-batch"):
        write_report(Storage(str(tmp_path)))
