"""`janus-batch replay` writes one image again, or varies it, and says whether its bytes are the stored ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from actors.noise import derive_seed
from tests.support.command_line import Command
from tests.support.toy_job import bytes_of, make_job, manifest_of, recipe, render, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.layouts import LAYOUTS, read_image
from workflows.storage.store import Storage

PROMPTS = {"prompt": ["a red fox", "b", "c", "d", "e"], "id": ["fox", "b#2", "c", "d", "e"]}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Command(tmp_path, monkeypatch, capsys)


def rendered(folder: Path, **changes) -> RenderJob:
    path = write_prompts(folder / "prompts.parquet", PROMPTS)
    job = make_job(path, folder / "out", **{"recipe": recipe(images_per_prompt=2), **changes})
    render(job)
    return job


def row_of(job: RenderJob, image_id: str) -> dict:
    return next(row for row in manifest_of(job) if row["image_id"] == image_id)


def stored(job: RenderJob, image_id: str) -> bytes:
    return read_image(Storage(job.output), row_of(job, image_id)["image"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("image_format", "extension"), [("png", "png"), ("webp", "webp"), ("jpeg", "jpg")])
def test_an_image_is_written_with_the_stored_bytes(
    command: Command, layout: str, image_format: str, extension: str
) -> None:
    job = rendered(command.folder, images=Images(layout=layout, format=image_format))

    for image_id in ("fox_1", "b#2_0"):
        code, out, err = command("replay", job.output, image_id)

        assert (code, err) == (0, "")
        assert f"bytes     the same as {row_of(job, image_id)['image']}\n" in out
        assert out.endswith(f"wrote     {image_id}.{extension}\n")
        assert Path(f"{image_id}.{extension}").read_bytes() == stored(job, image_id)


def test_a_changed_setting_varies_the_image_as_a_job_with_it_would(command: Command) -> None:
    job = rendered(command.folder)
    other = rendered(command.folder / "other", recipe=recipe(images_per_prompt=2, seed=3, cfg_weights=(7.5,)))
    settings = ("--set", "sampling.cfg_weight=7.5", "--set", "sampling.seed=3", "--to", "fox.png")

    code, out, _ = command("replay", job.output, "fox_1", *settings)

    assert code == 0
    seeds = [derive_seed(seed, "fox", 1) for seed in (0, 3)]
    assert out.splitlines() == [
        "prompt    a red fox",
        "changed   cfg_weight: 5 -> 7.5",
        f"changed   seed: {seeds[0]} -> {seeds[1]}",
        f"bytes     not those of {row_of(job, 'fox_1')['image']}: other bytes",
        "wrote     fox.png",
    ]
    assert Path("fox.png").read_bytes() == stored(other, "fox_1")


def test_the_extension_of_the_file_chooses_the_format(command: Command) -> None:
    job = rendered(command.folder)

    code, out, _ = command("replay", job.output, "fox_0", "--to", "fox.WEBP")

    assert code == 0
    assert "bytes     the same as " in out
    with Image.open("fox.WEBP") as image:
        assert image.format == "WEBP"


def test_other_bytes_without_a_change_are_an_incomplete_success(command: Command) -> None:
    job = rendered(command.folder)
    image = row_of(job, "c_0")["image"]
    Path(job.output, image).write_bytes(b"other")

    code, out, _ = command("replay", job.output, "c_0")

    assert code == 1
    assert f"bytes     not those of {image}: other bytes, the same codes\n" in out
    assert Path("c_0.png").exists()


def test_an_image_that_cannot_be_rendered_any_more_is_reported(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rendered(command.folder)
    monkeypatch.setattr("actors.toy.ToyEngine.refusal", lambda self, request: "too long")

    code, _, err = command("replay", job.output, "c_0")

    assert (code, err) == (1, "janus-batch: c_0: it cannot be rendered now: too long\n")
    assert not Path("c_0.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nix"], "has no image 'nix'; its ids look like "),
        (["fox_0", "--set", "workers.max=1"], "--set: replay varies one image by the keys of `sampling`, got workers"),
        (["fox_0", "--set", "cfg_weight=2"], "got cfg_weight; did you mean sampling.cfg_weight?"),
        (["fox_0", "--set", "sampling.images_per_prompt=2"], "varies one image by the keys of `sampling`"),
        (["fox_0", "--set", "sampling.cfg=2"], "sampling.cfg: unknown key"),
        (["fox_0", "--set", "sampling.cfg_weight=11"], "sampling.cfg_weight: cfg_weight must be"),
        (["fox_0", "--set", "sampling.cfg_weight=[1, 2]"], "one image has one weight, got [1.0, 2.0]"),
        (["fox_0", "--set", "sampling.solver=heun"], "sampling.solver: toy does not take it, got 'heun'"),
        (["fox_0", "--to", "fox.bmp"], "an image file ends in .png, .webp, .jpg, got fox.bmp"),
        (["fox_0", "--to", "none/fox.png"], "--to: there is no folder none"),
        (["fox_0", "--to", "../out/images/fox.png"], "is inside the output"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(command: Command, arguments: list[str], message: str) -> None:
    job = rendered(command.folder)
    before = bytes_of(command.folder)

    code, _, err = command("replay", job.output, *arguments)

    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert bytes_of(command.folder) == before
