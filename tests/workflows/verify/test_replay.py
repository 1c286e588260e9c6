"""Replay: an image re-rendered from its manifest row alone has the bytes of the stored file, or is reported."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.checkpoint.adapter import open_adapter
from actors.checkpoint.open import open_checkpoint, weights_digest
from actors.engines import open_engine
from actors.errors import InputError
from actors.prompt.protocol import PROTOCOLS
from actors.recipe import Adapter, adapters_to_json
from actors.request import ImageRequest, RenderedImage
from actors.toy import ToyEngine
from tests.support.adapters import Q0, factors, write_adapter
from tests.support.checkpoints import TINY
from tests.support.servers.s3 import S3Server
from tests.support.toy_job import make_job, manifest_of, plan_job, recipe, render, render_shard, write_prompts
from workflows.job import Images, RenderJob
from workflows.output.claim import claim_output
from workflows.output.encode import encode_image
from workflows.output.layouts import LAYOUTS
from workflows.storage.store import Storage
from workflows.verify.replay import replay_images

PROMPTS = {
    "prompt": ["a", "🦊 \0 قطة", "c", "d", "e", "f"],
    "id": ["a", "b.2", "c#3", "d", "e", "f"],
    "negative_prompt": [None, "blurry", None, None, None, None],
    "cfg_weight": [None, None, 3.0, None, None, None],
    "temperature": [0.0, None, None, None, None, None],
    "seed": [None, 7, None, None, None, None],
}
SWEEP = recipe(images_per_prompt=2, cfg_weights=(1.0, 5.0), cfg_interval=(0.25, 0.75))


def rendered(tmp_path: Path, output: str = "", **changes) -> RenderJob:
    path = write_prompts(tmp_path / "prompts.parquet", PROMPTS)
    job = make_job(path, output or tmp_path / "out", **{"recipe": SWEEP, **changes})
    render(job)
    return job


def replay(job: RenderJob, num_images: int = 100, seed: int = 0):
    return list(replay_images(Storage(job.output, job.storage), num_images, seed))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_every_image_is_re_rendered_to_the_same_bytes(tmp_path: Path, layout: str, image_format: str) -> None:
    job = rendered(tmp_path, images=Images(layout=layout, format=image_format))

    replays = replay(job)

    assert [r.difference for r in replays] == [""] * 22
    assert all(r.same_bytes for r in replays)
    assert {r.image for r in replays} == {row["image"] for row in manifest_of(job)}


def test_images_on_s3_are_re_rendered_to_the_same_bytes(tmp_path: Path, s3_server: S3Server, s3_folder: str) -> None:
    job = rendered(tmp_path, f"{s3_folder}/out", storage=s3_server.storage_options)

    assert [r.same_bytes for r in replay(job, 5)] == [True] * 5


def test_the_requested_number_of_images_is_picked_by_the_seed(tmp_path: Path) -> None:
    job = rendered(tmp_path)

    first, same, other = (replay(job, 5, seed) for seed in (1, 1, 2))

    assert len({r.image_id for r in first}) == 5
    assert first == same
    assert {r.image_id for r in first} != {r.image_id for r in other}


def test_a_changed_image_is_reported(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    row, storage = manifest_of(job)[3], Storage(job.output)
    storage.write(row["image"], storage.read(row["image"])[:-20])

    different = [r for r in replay(job) if not r.same_bytes]

    assert [(r.image, r.difference) for r in different] == [(row["image"], "other bytes, the same codes")]


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    row = manifest_of(job)[3]
    Storage(job.output).remove(row["image"])

    assert [(r.image, r.difference) for r in replay(job) if not r.same_bytes] == [(row["image"], "its file is missing")]


def test_an_image_with_a_text_before_it_and_adapters_is_re_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "got-r1", dataclasses.replace(PROTOCOLS["got-r1"], max_tokens=24))
    lora = str(write_adapter(tmp_path / "lora", factors(Q0, (64, 64))))
    adapter = Adapter(name=lora, sha256=weights_digest(open_adapter(lora)), weight=0.5)
    checkpoint = open_checkpoint(str(TINY))
    made_by = recipe(
        family="janus",
        checkpoint=str(TINY),
        weights_sha256=weights_digest(checkpoint),
        prompt_format="janus",
        protocol="got-r1",
        adapters=(adapter,),
        sampler="janus-3",
    )
    job = make_job(write_prompts(tmp_path / "p.parquet", {"prompt": ["a fox", "b"]}), tmp_path / "out", recipe=made_by)
    claim_output(job, {})
    (shard,) = plan_job(job).remaining_shards()
    render_shard(job, shard, open_engine(made_by, {}))

    assert [(bool(row["reasoning"]), row["adapters"]) for row in manifest_of(job)] == [
        (True, adapters_to_json((adapter,)))
    ] * 2
    assert [r.same_bytes for r in replay(job, 1)] == [True]  # in another batch

    codes = manifest_of(job)[0]["codes"]
    change_first_row(job, "codes", [codes[0] ^ 1, *codes[1:]])
    assert sorted(r.difference for r in replay(job)) == [
        "",
        "the same image, but other codes than in the column codes",
    ]
    change_first_row(job, "codes", codes)
    change_first_row(job, "reasoning", "a cat")
    assert sorted(r.difference for r in replay(job)) == [
        "",
        "the same image, but another text before it than in the column reasoning",
    ]


@pytest.mark.parametrize(
    ("column", "lie"),
    [("prompt", "b"), ("seed", 2), ("cfg_weight", 2.0), ("temperature", 2.0), ("negative_prompt", "no")],
)
def test_a_wrong_manifest_row_is_reported(tmp_path: Path, column: str, lie: object) -> None:
    job = rendered(tmp_path)
    change_first_row(job, column, lie)

    different = [r for r in replay(job) if not r.same_bytes]

    assert [r.difference for r in different] == ["other bytes"]


def change_first_row(job: RenderJob, column: str, value: object) -> None:
    part = min(Path(job.output, "manifest").iterdir())
    table = pq.read_table(part)
    rows = table.to_pylist()
    rows[0][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)


def test_a_row_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    job = rendered(tmp_path)
    part = min(Path(job.output, "manifest").iterdir())
    table = pq.read_table(part)
    position, families = table.column_names.index("family"), pa.array(["janus-9"] * table.num_rows)
    pq.write_table(table.set_column(position, "family", families), part)

    with pytest.raises(InputError, match=rf"{part} has an image of family 'janus-9'; .* can replay .*toy"):
        replay(job)


def test_an_engine_that_renders_other_bytes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = rendered(tmp_path)
    real = ToyEngine._render_one
    monkeypatch.setattr(
        ToyEngine,
        "_render_one",
        lambda self, request: dataclasses.replace(real(self, request), pixels=real(self, request).pixels // 2),
    )

    assert {r.difference for r in replay(job)} == {"other bytes, the same codes"}


def test_an_image_that_cannot_be_rendered_any_more_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = rendered(tmp_path)
    monkeypatch.setattr(ToyEngine, "refusal", functools.partialmethod(lambda self, request: "too long"))

    assert {r.difference for r in replay(job)} == {"it cannot be rendered now: too long"}


def test_images_with_one_id_in_two_shards_are_told_apart(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b", "c", "d", "e"], "id": ["x", "y", "z", "w", "x"]}
    job = make_job(write_prompts(tmp_path / "prompts.parquet", columns), tmp_path / "out")
    render(job)

    assert [r.same_bytes for r in replay(job)] == [True] * 5


def test_an_output_without_images_has_nothing_to_replay(tmp_path: Path) -> None:
    job = make_job(write_prompts(tmp_path / "prompts.parquet", {"prompt": [None]}), tmp_path / "out")
    render(job)

    assert replay(job) == []


def test_a_file_with_another_text_has_the_same_pixels(tmp_path: Path) -> None:
    """As another version of janus-batch writes it. A file that is not the one of its row differs all the same."""
    job = rendered(tmp_path)
    part, storage = min(Path(job.output, "manifest").iterdir()), Storage(job.output)
    table = pq.read_table(part)
    rows = table.to_pylist()
    other = recipe(checkpoint="another-name")
    for row, is_recorded in zip(rows, [True, False], strict=False):
        data = encode_image(stored_image(storage, row["image"]), "png", request_of(row), other)
        storage.write(row["image"], data)
        row["image_sha256"] = hashlib.sha256(data).hexdigest() if is_recorded else row["image_sha256"]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)

    by_image = {r.image: r for r in replay(job)}
    first, second = by_image[rows[0]["image"]], by_image[rows[1]["image"]]

    assert (first.same_bytes, first.same_pixels, first.difference) == (
        False,
        True,
        "the same pixels, and another text in the file",
    )
    assert (second.same_pixels, second.difference) == (False, "other bytes, the same codes")


def stored_image(storage: Storage, name: str) -> RenderedImage:
    pixels = np.asarray(Image.open(io.BytesIO(storage.read(name))).convert("RGB"))
    return RenderedImage(image_id=name, pixels=pixels)


def request_of(row: dict) -> ImageRequest:
    names = ("image_id", "prompt_id", "image_index", "prompt", "negative_prompt", "seed", "cfg_weight")
    return ImageRequest(**{name: row[name] for name in names})
