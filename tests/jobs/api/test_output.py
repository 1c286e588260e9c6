"""`janus_batch.open`: rows, images, rejected rows, settings, replays and the grid of an output."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

import janus_batch
from actors.noise import derive_seed
from tests.support.toy_job import make_job, manifest_of, recipe, rejected_of, render, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.layouts import LAYOUTS, read_image
from workflows.output.manifest import MANIFEST_SCHEMA
from workflows.storage.store import Storage

PROMPTS = {
    "id": ["fox", "none", "cat", "dog", "owl", "<b>"],
    "prompt": ["a red fox", None, "a cat", "a dog", "an owl", "a <script>"],
    "tag": [1, 2, 3, 4, 5, 6],
}


def rendered(folder: Path, **changes) -> RenderJob:
    path = write_prompts(folder / "prompts.parquet", PROMPTS)
    job = make_job(path, folder / "out", **{"recipe": recipe(cfg_weights=(1.0, 5.0)), **changes})
    render(job)
    return job


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_images_are_in_the_same_order(tmp_path: Path, layout: str) -> None:
    job = rendered(tmp_path, images=Images(layout=layout))

    output = janus_batch.open(job.output)

    assert output.rows.column_names == [name for name in MANIFEST_SCHEMA.names if name != "codes"] + ["tag"]
    assert output.rows["image_id"].to_pylist() == [row["image_id"] for row in manifest_of(job)]
    assert len(output) == len(output.images) == 10
    for row, image in zip(output.rows.to_pylist(), output.images, strict=True):
        stored = Image.open(io.BytesIO(read_image(Storage(job.output), row["image"])))
        assert image.tobytes() == stored.tobytes()
        assert output.image(row["image_id"]).tobytes() == stored.tobytes()
    assert [image.tobytes() for image in output.images[1:3]] == [output.images[n].tobytes() for n in (1, 2)]
    assert output.images[-1].tobytes() == output.images[9].tobytes()
    assert list(output.to_pandas()["tag"]) == [row["tag"] for row in manifest_of(job)]


def test_it_says_what_it_holds(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    output = janus_batch.open(tmp_path / "out")

    assert repr(output) == f"<Output {job.output}: 10 images, 2 rejected, not finished>"
    assert output.rejected.to_pylist() == rejected_of(job)
    assert output.rejected["reason"].to_pylist() == ["prompt is null"]
    assert (output.settings["family"], output.settings["cfg_weights"]) == ("toy", (1.0, 5.0))
    assert isinstance(output, janus_batch.Output)


def test_an_output_without_images_is_empty(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": pa.array([], pa.string())})
    render(make_job(path, tmp_path / "out"))
    output = janus_batch.open(tmp_path / "out")

    assert (len(output), output.rejected.num_rows, list(output.images)) == (0, 0, [])
    assert "0 images, 0 rejected" in output._repr_html_()


def test_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(janus_batch.InputError, match=r"has no job\.json: it is not an output of janus-batch"):
        janus_batch.open(tmp_path)
    job = rendered(tmp_path)
    output = janus_batch.open(job.output)
    for look in (output.image, output.replay):
        with pytest.raises(janus_batch.InputError, match=r"out has no image 'wolf'; its ids look like 'fox_0_w1'"):
            look("wolf")
        with pytest.raises(janus_batch.InputError, match=r"has no image 'cat'; did you mean 'cat_0_w1'\?"):
            look("cat")
        for wrong in (7, None, b"fox_0_w1", ""):
            with pytest.raises(janus_batch.InputError, match=r"image_id: must be the id of an image, .* got "):
                look(wrong)
    with pytest.raises(IndexError, match="the output has 10 images, got position 10"):
        output.images[10]
    with pytest.raises(janus_batch.InputError, match=r"takes a position or a slice, got 'fox'; output.image\(ID\)"):
        output.images["fox"]
    with pytest.raises(janus_batch.InputError, match="output: must be a path or URL, got 7"):
        janus_batch.open(7)
    with pytest.raises(janus_batch.InputError, match=r"endpoint_url: must be the URL of an S3 store, .* got ''"):
        janus_batch.open(job.output, endpoint_url="")

    (Path(job.output) / output.rows["image"][0].as_py()).unlink()
    with pytest.raises(janus_batch.InputError, match=r"fox_0_w1\.png is missing; `janus-batch verify .* --repair`"):
        output.images[0]
    (Path(job.output) / output.rows["image"][1].as_py()).write_bytes(b"no image")
    with pytest.raises(janus_batch.InputError, match=r"fox_0_w5\.png is not a readable image"):
        output.images[1]


def test_a_replay_is_the_stored_image(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    replay = janus_batch.open(job.output).replay("cat_0_w5")

    assert (replay.same_bytes, replay.same_pixels, replay.difference, replay.changes) == (True, True, "", {})
    assert replay.data == (Path(job.output) / next(iter(Path(job.output).glob("images/*/cat_0_w5.png")))).read_bytes()
    assert Image.open(io.BytesIO(replay._repr_png_())).tobytes() == replay.image.tobytes()


def test_a_replay_with_settings_is_the_image_of_a_job_with_them(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    other = rendered(tmp_path / "other", recipe=recipe(seed=3, cfg_weights=(7.5,)))

    replay = janus_batch.open(job.output).replay("cat_0_w5", cfg_weight=7.5, seed=3)

    assert replay.image.tobytes() == janus_batch.open(other.output).image("cat_0").tobytes()
    assert replay.seed == derive_seed(3, "cat", 0)
    assert (replay.same_bytes, replay.changes) == (False, {"cfg_weight": 7.5, "seed": replay.seed})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cfg_weigth": 7}, "sampling.cfg_weigth: unknown key; did you mean `cfg_weight`"),
        (
            {"images_per_prompt": 7},
            "^replay varies one image by the keys of `sampling`, got ",
        ),
        ({"solver": "heun"}, "sampling.solver: toy does not take it"),
        ({"cfg_weight": 70}, "sampling.cfg_weight: "),
    ],
)
def test_a_replay_refuses_what_a_job_file_refuses(tmp_path: Path, settings: dict, message: str) -> None:
    output = janus_batch.open(rendered(tmp_path).output)

    with pytest.raises(janus_batch.InputError, match=message):
        output.replay("cat_0_w5", **settings)


def test_a_notebook_shows_the_first_images_with_prompt_and_weight(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    output = janus_batch.open(job.output)

    page = output._repr_html_()

    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(data))).tobytes() for data in sources] == [
        image.tobytes() for image in output.images
    ]
    assert "<b>weight 5</b> a red fox</figcaption>" in page
    assert "grid-template-columns:repeat(2," in page
    assert "a &lt;script&gt;" in page
    assert "<script>" not in page
    assert "more</p>" not in page


def test_a_notebook_shows_a_part_of_many_images(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.parquet", {"prompt": [f"fox {n}" for n in range(30)]})
    job = make_job(path, tmp_path / "out")
    render(job)
    (Path(job.output) / manifest_of(job)[0]["image"]).unlink()

    page = janus_batch.open(job.output)._repr_html_()

    assert page.count("<img ") == 23
    assert "grid-template-columns" not in page
    assert "weight" not in page
    assert "is missing" in page
    assert page.endswith("<p>and 6 more</p>")
