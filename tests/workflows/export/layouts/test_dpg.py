"""Exports for DPG-Bench."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.support.exports import export, finished, finished_with, prompts_of, rendered_pixels
from tests.support.toy_job import make_job, recipe, write_prompts
from tests.workflows.test_retry_rejected import Fixed, HalfFixed, retry
from workflows.export.layouts.layout import ExportError
from workflows.export.rules import Rules

FOUR = recipe(images_per_prompt=4)


class TwoFixed(HalfFixed):
    """Renders two of the four images of a prompt."""

    num_fixed = 2


def test_each_prompt_gets_a_grid_in_reading_order(tmp_path: Path) -> None:
    columns = {"id": ["0", "whoops_5", "9"], "prompt": ["a", "b", "c toy:nan"]}
    job = finished_with(tmp_path, columns, recipe=FOUR)

    done = export(job, tmp_path / "dpg", "dpg")

    assert {path.name for path in (tmp_path / "dpg/images").iterdir()} == {"0.png", "whoops_5.png"}
    grid, pixels = Image.open(tmp_path / "dpg/images/whoops_5.png"), rendered_pixels(job)
    assert grid.size == (128, 128)
    for index, corner in enumerate([(0, 0), (64, 0), (0, 64), (64, 64)]):
        tile = grid.crop((*corner, corner[0] + 64, corner[1] + 64))
        assert tile.tobytes() == pixels[f"whoops_5_{index}"]
    assert (done.written.num_images, done.written.num_files, done.written.num_prompts) == (8, 2, 2)
    with pytest.raises(ExportError, match="holds no images to export: no prompt has all 4 of its images"):
        export(job, tmp_path / "none", "dpg", rules=Rules(where=("image_index > 0",)))
    assert not (tmp_path / "none").exists()


def test_a_sample_of_single_images_is_refused_because_it_tears_grids_apart(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["x", "y"]}, recipe=FOUR)

    with pytest.raises(ExportError, match="needs all 4 of each prompt, got --sample 1"):
        export(job, tmp_path / "dpg", "dpg", rules=Rules(sample=1))
    assert not (tmp_path / "dpg").exists()


def test_a_sample_of_prompts_with_one_image_is_exported(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["x", "y"]})

    done = export(job, tmp_path / "dpg", "dpg", rules=Rules(sample=1))

    assert (done.written.num_images, len(list((tmp_path / "dpg/images").iterdir()))) == (1, 1)


def test_each_weight_of_a_sweep_gets_its_own_folder(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["x", "y"]}, recipe=recipe(cfg_weights=(1.0, 7.5), images_per_prompt=4))

    export(job, tmp_path / "dpg", "dpg")

    for weight in ("w1", "w7.5"):
        assert {path.name for path in (tmp_path / f"dpg/{weight}/images").iterdir()} == {"x.png", "y.png"}


def test_a_grid_includes_images_from_a_retry(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"prompt": ["toy:nan a", "b"], "id": ["a", "b"]}, recipe=FOUR)
    retry(job, TwoFixed)
    first = export(job, tmp_path / "dpg", "dpg", allow_incomplete=True)
    retry(job, Fixed)
    second = export(job, tmp_path / "dpg", "dpg")

    assert (first.written.num_files, first.written.num_left_out) == (1, 2)
    assert (second.written.num_files, second.written.num_left_out, second.written.num_images) == (2, 0, 8)
    assert {path.name for path in (tmp_path / "dpg/images").iterdir()} == {"a.png", "b.png"}


def test_a_grid_takes_four_images_or_one(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", recipe=recipe(images_per_prompt=2)))

    with pytest.raises(ExportError, match=r"images_per_prompt must be 4 \(a grid\) or 1, got 2"):
        export(job, tmp_path / "dpg", "dpg")


def test_an_id_with_a_dot_is_refused(tmp_path: Path) -> None:
    job = finished_with(tmp_path, {"id": ["a", "b.c"]})

    with pytest.raises(ExportError, match=r"dpg: a prompt id must not have a dot, .* got 'b.c'"):
        export(job, tmp_path / "dpg", "dpg")
    assert not (tmp_path / "dpg").exists()


@pytest.mark.parametrize(
    ("first", "second"), [(["x", "y"], ["y", "z"]), (["x"], ["X"]), (["é"], ["e\u0301"]), (["x"], ["x"])]
)
def test_prompts_that_would_share_a_file_are_refused(tmp_path: Path, first: list[str], second: list[str]) -> None:
    for name, ids in (("a", first), ("b", second)):
        write_prompts(tmp_path / f"prompts/{name}.parquet", {"id": ids, "prompt": [f"{name} {i}" for i in ids]})
    job = finished(make_job(tmp_path / "prompts", tmp_path / "out"))

    with pytest.raises(ExportError, match=r"prompts '.' \(shard a-.*\) and '..?' \(shard b-.*\) would share the file"):
        export(job, tmp_path / "dpg", "dpg", allow_incomplete=True)
    assert not (tmp_path / "dpg").exists()
