"""The dataset card, parsed back by huggingface_hub and `datasets`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from tests.support.exports import export, finished, finished_with, prompts_of
from tests.support.toy_job import make_job, recipe
from workflows.export.card import COLUMN_NOTES
from workflows.export.layouts.layout import ExportError
from workflows.export.rules import Rules, read_splits
from workflows.output.manifest import MANIFEST_SCHEMA, own_schema

SWEEP = recipe(cfg_weights=(1.0, 7.5), images_per_prompt=2)


def test_the_card_has_the_counts_the_model_and_the_settings(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", name="a | <b>name</b>", recipe=SWEEP))

    export(job, tmp_path / "ds", "imagefolder", license_id="CC0-1.0")

    card = DatasetCard.load(tmp_path / "ds/README.md")
    assert (card.data.pretty_name, card.data.license, card.data.size_categories) == (
        "a | <b>name</b>",
        "cc0-1.0",
        ["n<1K"],
    )
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "train/**"}]
    facts = card.data.janus_batch
    assert (facts["num_images"], facts["num_prompts"], facts["num_rejected"]) == (16, 4, 8)
    assert facts["weights_sha256"] == job.recipe.weights_sha256
    assert "# a \\| \\<b\\>name\\</b\\>" in card.text
    assert f"| SHA-256 of the weights | {job.recipe.weights_sha256} |" in card.text
    assert "| guidance weight | 1, 7.5 |" in card.text
    assert "| kind | string |" in card.text
    assert all(f"`{name}`" in card.text for name in MANIFEST_SCHEMA.names if name not in ("image", "codes", "latents"))


def test_every_column_of_an_image_has_a_note() -> None:
    noted = {name for group in COLUMN_NOTES for name in group}

    assert set(own_schema("judged").names) - noted == {"latents"}


def test_the_card_opens_a_split_that_is_there(tmp_path: Path) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))

    export(job, tmp_path / "ds", "lance", rules=Rules(splits=read_splits("a=0.5,b=0.5")))

    [opened] = re.findall(r'"DEST/(data/.*)"', DatasetCard.load(tmp_path / "ds/README.md").text)
    assert (tmp_path / "ds" / opened).is_dir()


@pytest.mark.parametrize("text", ["", "my own license", "cc0-1.0\n", "../x", "-"])
def test_a_license_that_is_no_identifier_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExportError, match="--license takes the identifier of a license, such as "):
        export(finished_with(tmp_path, {"id": ["a"]}), tmp_path / "ds", "parquet", license_id=text)

    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("layout", ["imagefolder", "webdataset"])
def test_datasets_finds_the_data_files_by_the_card(tmp_path: Path, layout: str) -> None:
    from datasets import load_dataset

    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out"))

    export(job, tmp_path / "ds", layout)

    assert len(load_dataset(str(tmp_path / "ds"), split="train", cache_dir=str(tmp_path / "cache"))) == 4


def test_the_card_invents_no_license(tmp_path: Path) -> None:
    export(finished(make_job(prompts_of(tmp_path), tmp_path / "out")), tmp_path / "ds", "webdataset")

    card = DatasetCard.load(tmp_path / "ds/README.md")
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert "not stated. Before you publish them, fill in `license` above" in card.text


@pytest.mark.parametrize("name", ["a\n---\nb", "{{ 7 * 7 }}", "- x: y", "\"quoted\" 'both'", "日本 🦊", "# h\n\n| t |"])
def test_any_job_name_stays_a_name(tmp_path: Path, name: str) -> None:
    job = finished(make_job(prompts_of(tmp_path), tmp_path / "out", name=name))

    export(job, tmp_path / "ds", "imagefolder")

    card = DatasetCard.load(tmp_path / "ds/README.md")
    assert card.data.pretty_name == name
    assert card.data.janus_batch["num_images"] == 4
    assert card.text.count("\n# ") == 1


def test_the_card_names_renamed_columns(tmp_path: Path) -> None:
    export(finished_with(tmp_path, {"file_name": ["a"]}), tmp_path / "ds", "imagefolder")

    text = DatasetCard.load(tmp_path / "ds/README.md").text
    assert "| file_name_carried | string |" in text
    assert "The column file_name of the prompt files is called file_name_carried here" in text


def test_the_card_of_a_benchmark_names_no_data_files(tmp_path: Path) -> None:
    export(finished_with(tmp_path, {"id": ["a"], "kind": ["x"]}), tmp_path / "dpg", "dpg")

    card = DatasetCard.load(tmp_path / "dpg/README.md")
    assert "configs" not in card.data.to_dict()
    assert "This layout holds no columns" in card.text
