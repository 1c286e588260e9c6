"""Exports as codes: their size, and the pictures that the decoder next to them shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from actors.checkpoint.open import weights_digest
from actors.errors import OtherWeightsError
from tests.support.checkpoints import TINY, fetched
from tests.support.exports import export, finished_with, load_splits, score, score_of
from tests.support.janus_engine import engine
from tests.support.toy_job import bytes_of, make_job, manifest_of, plan_job, recipe, render_shard, write_prompts
from workflows.export.images import ExportImage
from workflows.export.layouts.codes import CODES
from workflows.export.layouts.layout import ExportError, Place
from workflows.export.rules import Rules
from workflows.job import RenderJob
from workflows.output.claim import claim_output, mark_success
from workflows.scores.parts import Scorer
from workflows.storage.store import Storage


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RenderJob:
    """Images of the tiny Janus checkpoint, 16 codes each; two for each prompt."""
    folder = tmp_path_factory.mktemp("janus")
    prompts = write_prompts(folder / "prompts.parquet", {"prompt": ["a red square", "a dog"], "kind": ["x", "y"]})
    of_tiny = recipe(
        family="janus", checkpoint=str(TINY), weights_sha256=weights_digest(fetched(TINY)), prompt_format="janus-pro",
        sampler="janus-3", images_per_prompt=2,
    )  # fmt: skip
    job = make_job(prompts, folder / "out", recipe=of_tiny)
    claim_output(job, {})
    for shard in plan_job(job).remaining_shards():
        render_shard(job, shard, engine())
    mark_success(job, 4, 0)
    return job


def test_the_decoder_of_the_export_shows_the_pictures(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "codes")

    code = re.search(r"```python\n(.*?)```", (tmp_path / "ds/README.md").read_text(), re.DOTALL)
    assert code is not None
    script = code[1].replace("DEST", str(tmp_path / "ds"))
    script += "\nimport numpy; numpy.save('all.npy', decode(torch.tensor(rows['codes'][:])).numpy())"
    assert len(code[1].strip().splitlines()) <= 12
    subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, check=True, env={"HF_HOME": str(tmp_path)})

    stored = [np.asarray(Image.open(Path(job.output) / row["image"])) for row in manifest_of(job)]
    decoded = np.load(tmp_path / "all.npy")
    assert decoded.shape == np.stack(stored).shape
    assert np.abs(decoded.astype(int) - np.stack(stored)).max() <= 1
    assert np.asarray(Image.open(tmp_path / "first.png")).shape == stored[0].shape


def test_rows_have_codes_and_columns_and_no_pixels(job: RenderJob, tmp_path: Path) -> None:
    export(job, tmp_path / "ds", "codes")

    rows, manifest = load_splits(tmp_path / "ds")["train"], manifest_of(job)
    assert [row["codes"] for row in rows] == [row["codes"] for row in manifest]
    assert [(row["prompt"], row["kind"], row["image_sha256"]) for row in rows] == [
        (row["prompt"], row["kind"], row["image_sha256"]) for row in manifest
    ]
    assert "image" not in rows.features


def test_pairs_hold_codes(job: RenderJob, tmp_path: Path) -> None:
    score(job, Scorer(name="clip", version="1"), similarity=score_of)

    export(job, tmp_path / "ds", "codes", rules=Rules(pairs="clip"))

    codes = {row["image_id"]: row["codes"] for row in manifest_of(job)}
    for row in load_splits(tmp_path / "ds")["train"]:
        assert row["chosen"] == codes[row["chosen_image_id"]]
        assert row["rejected"] == codes[row["rejected_image_id"]]


def test_a_second_export_is_the_same_byte_for_byte(job: RenderJob, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(job, tmp_path / name, "codes")

    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_an_image_with_fewer_codes_than_the_others_is_refused(tmp_path: Path) -> None:
    """The decoder takes them together, so the first reader of the export would fail."""
    images = (
        ExportImage(image_id=f"x{num}", prompt_id="x", image_index=0, cfg_weight=1.0, prompt="x",
                    record=pa.table({"image_id": ["x"]}), data=b"", extension="png", codes=np.zeros(num, np.int32))
        for num in (576, 575)
    )  # fmt: skip
    assert CODES.write is not None

    with pytest.raises(ExportError, match="codes: 'x575' must have 576 codes like others, got 575"):
        CODES.write(Place(Storage(str(tmp_path)), "shard", None, frozenset()), images, recipe())


def test_an_image_of_576_codes_takes_about_a_kilobyte(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 16384, (5_000, 576), dtype=np.int32)
    record = pa.table({"image_id": ["x"]})
    images = (
        ExportImage(image_id="x", prompt_id="x", image_index=0, cfg_weight=1.0, prompt="x", record=record, data=b"",
                    extension="png", codes=row)
        for row in codes
    )  # fmt: skip
    assert CODES.write is not None

    CODES.write(Place(Storage(str(tmp_path)), "shard", None, frozenset()), images, recipe())

    assert (tmp_path / "data/shard-000.parquet").stat().st_size < 5_000 * 1_150


def test_other_families_have_no_codes(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"layout codes needs images of Janus or Janus-Pro, which have codes; these are of toy"
    ):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "codes")
    assert not (tmp_path / "ds").exists()


def test_a_checkpoint_with_other_weights_stops_the_export(job: RenderJob, tmp_path: Path) -> None:
    claim = Path(job.output) / "job.json"
    text = claim.read_text()
    claim.write_text(text.replace(job.recipe.weights_sha256, "0" * 64))
    try:
        with pytest.raises(OtherWeightsError, match="holds other weights now"):
            export(job, tmp_path / "ds", "codes")
    finally:
        claim.write_text(text)
    assert not list((tmp_path / "ds").rglob("*.parquet"))
