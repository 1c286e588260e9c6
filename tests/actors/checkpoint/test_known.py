"""Which published model a folder is, from its hub id or from marks in its files, and when its tags are a guess."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.checkpoint.files import StoredFile
from actors.checkpoint.known import KNOWN_MODELS, Origin, find_origin
from actors.checkpoint.open import open_checkpoint
from actors.families import Identity
from actors.prompt.template import PROMPT_FORMATS, TEMPLATES
from tests.support.checkpoints import TINY

PRO = {"model_type": "multi_modality", "gen_vision_config": {}, "transformers_version": "4.46.0"}


class Listing:
    """A folder of files with these contents."""

    def __init__(self, name: str = "/models/mine", **contents: Any) -> None:
        self.name, self._contents = name, {key.replace("__", "."): value for key, value in contents.items()}

    def files(self) -> dict[str, StoredFile]:
        return {name: StoredFile(name=name, size=1) for name in self._contents}

    def read(self, file_name: str) -> bytes:
        return json.dumps(self._contents[file_name]).encode()


def origin(folder: Listing | None = None, *, hub_id: str | None = None, **config: Any) -> Origin:
    return find_origin(
        folder or Listing(),
        PRO | config,
        family="janus",
        identity=Identity(layout="original"),
        hub_id=hub_id,
        is_bundled=False,
    )


@pytest.mark.parametrize(
    ("hub_id", "prompt_format", "protocol"),
    [
        ("CaraJ/T2I-R1", "janus", "t2i-r1"),
        ("gogoduan/GoT-R1-1B", "janus", "got-r1"),
        ("gogoduan/GoT-R1-7B", "janus", "got-r1"),
        ("Franklin0/ReasonGen-R1", "janus-pro", "reasongen-r1"),
        ("FreedomIntelligence/Janus-4o-7B", "janus-pro", None),
        ("midbee/Janus-Pro-R1-7B", "janus-pro", None),
        ("deepseek-ai/Janus-Pro-7B", "janus-pro", None),
        ("deepseek-ai/Janus-1.3B", "janus", None),
    ],
)
def test_a_hub_id_decides_tags_and_protocol(hub_id: str, prompt_format: str, protocol: str | None) -> None:
    found = origin(hub_id=hub_id)
    assert found.model
    assert (found.prompt_format, found.model.protocol, found.evidence) == (
        prompt_format,
        protocol,
        f"the hub id {hub_id}",
    )


def test_a_copy_that_names_where_it_was_loaded_from_has_its_tags() -> None:
    assert origin(_name_or_path="CaraJ/T2I-R1").prompt_format == "janus"
    assert origin(_name_or_path="deepseek-ai/Janus-1.3B").prompt_format == "janus"


def test_a_copy_of_got_r1_is_recognized_by_its_own_tokens() -> None:
    tokens = {str(i): {"content": name} for i, name in enumerate(["<|box_start|>", "<|obj_start|>", "<|User|>"])}
    found = origin(Listing(tokenizer_config__json={"added_tokens_decoder": tokens}))
    assert (found.prompt_format, found.model and found.model.name) == ("janus", "GoT-R1")
    assert found.evidence == "the token <|obj_start|> of its tokenizer"


@pytest.mark.parametrize("tokens", [None, [], {"1": "x"}, {"1": {"content": 7}}, {"1": {"content": "<|obj_start|>"}}])
def test_settings_of_an_odd_shape_recognize_nothing(tokens: object) -> None:
    assert origin(Listing(tokenizer_config__json={"added_tokens_decoder": tokens})).evidence is None


def test_a_model_trained_further_from_janus_pro_has_guessed_tags() -> None:
    found = origin(_name_or_path="deepseek-ai/Janus-Pro-7B")
    assert (found.prompt_format, found.evidence) == ("janus-pro", None)
    assert found.hint == "it was trained further from deepseek-ai/Janus-Pro-7B"
    assert origin() == Origin(prompt_format="janus-pro")


def test_the_name_of_a_folder_is_a_hint_and_decides_nothing() -> None:
    found = origin(Listing("/models/GoT-R1-7B/"))
    assert (found.prompt_format, found.evidence) == ("janus-pro", None)
    assert found.hint == "its folder has the name of GoT-R1, whose tags are User and Assistant"


def test_a_local_copy_of_the_published_janus_pro_is_no_guess() -> None:
    assert origin(Listing(pytorch_model__bin=0), transformers_version="4.33.1").evidence
    assert not origin(Listing(model__safetensors=0), transformers_version="4.33.1").evidence


def test_a_snapshot_in_the_hubs_cache_is_known_by_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--CaraJ--T2I-R1" / "snapshots" / ("0" * 40)
    shutil.copytree(TINY, snapshot)
    checkpoint = open_checkpoint(str(snapshot))
    assert (checkpoint.prompt_format, checkpoint.origin and checkpoint.origin.evidence) == (
        "janus",
        "the hub id CaraJ/T2I-R1",
    )


def test_a_given_format_or_template_needs_no_origin() -> None:
    given = open_checkpoint(str(TINY), prompt_format="janus")
    assert (given.prompt_format, given.origin and given.origin.evidence) == ("janus", "the job")
    given = open_checkpoint(str(TINY), prompt_template=TEMPLATES["t2i-r1"])
    assert (given.prompt_format, given.origin and given.origin.evidence) == (None, "the job")
    assert given.template == TEMPLATES["t2i-r1"]


def test_every_known_model_is_whole() -> None:
    repositories = [repository for model in KNOWN_MODELS for repository in model.repositories]
    assert len(repositories) == len(set(repositories))
    for model in KNOWN_MODELS:
        assert model.prompt_format in PROMPT_FORMATS
        assert re.fullmatch(r"https://github.com/\S+", model.source)
        assert model.license
