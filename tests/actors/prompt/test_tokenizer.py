"""Token ids against those of the reference implementation, and what cannot be tokenized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actors.errors import CheckpointError
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, BOS, PAD, PromptTokenizer

DATA = Path(__file__).parents[2] / "data"
TINY, FLOW = DATA / "janus-tiny", DATA / "janusflow-tiny"
REFERENCE = json.loads((DATA / "prompt_ids.json").read_text())

JANUS = [
    pytest.param(style.replace("_", "-"), entry["prompt"], ids, id=f"{style}-{i}")
    for i, entry in enumerate(REFERENCE["janus"])
    for style, ids in entry["styles"].items()
]


@pytest.fixture(params=["janus", "janus-pro"])
def tokenizer(request: pytest.FixtureRequest) -> PromptTokenizer:
    return PromptTokenizer(TINY, request.param)


def edit_tokenizer(folder: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of the folder whose tokenizer.json has these keys replaced."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    content = {**json.loads((folder / "tokenizer.json").read_text()), **changes}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(("prompt_format", "prompt", "reference"), JANUS)
def test_janus_ids_match_the_reference(prompt_format: str, prompt: str, reference: dict) -> None:
    tokenizer = PromptTokenizer(TINY, prompt_format)
    ids = tokenizer.cond_ids(prompt)
    assert ids == reference["input_ids"]
    assert tokenizer.uncond_ids(len(ids)) == reference["uncond_ids"]


@pytest.mark.parametrize("reference", REFERENCE["janusflow"])
def test_janusflow_ids_match_the_reference(reference: dict) -> None:
    tokenizer = PromptTokenizer(FLOW, "janus")
    ids = tokenizer.flow_cond_ids(reference["prompt"])
    assert ids == reference["used_ids"]
    assert tokenizer.cond_ids(reference["prompt"]) == reference["demo_input_ids"]


@pytest.mark.parametrize("post_processor", [None, "twice"])
def test_there_is_one_bos_even_if_the_tokenizer_adds_its_own(
    post_processor: str | None, tmp_path: Path, tokenizer: PromptTokenizer
) -> None:
    template = json.loads((TINY / "tokenizer.json").read_text())["post_processor"]
    if post_processor == "twice":
        template["single"] = [template["single"][0], *template["single"]]
    folder = edit_tokenizer(TINY, tmp_path, post_processor=post_processor and template)
    ids = PromptTokenizer(folder, "janus-pro").cond_ids("a red cube")
    assert ids == PromptTokenizer(TINY, "janus-pro").cond_ids("a red cube")
    assert ids.count(tokenizer.bos_id) == 1


def test_truncation_and_padding_of_the_tokenizer_file_do_not_apply(tmp_path: Path) -> None:
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None}
    padding |= {"pad_id": 302, "pad_type_id": 0, "pad_token": PAD}
    folder = edit_tokenizer(TINY, tmp_path, truncation=truncation, padding=padding)
    assert PromptTokenizer(folder, "janus").cond_ids("a red cube") == PromptTokenizer(TINY, "janus").cond_ids(
        "a red cube"
    )


def test_space_around_a_prompt_is_stripped_and_space_inside_is_kept(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.cond_ids("\n  a red cube \t") == tokenizer.cond_ids("a red cube")
    assert tokenizer.cond_ids("a  red cube") != tokenizer.cond_ids("a red cube")


@pytest.mark.parametrize(
    "prompt", ["", " ", "un café à la crème", "赤い立方体", "🦊" * 3, "a\x00b", "e\u0301", "\u202eabc"]
)
def test_any_unicode_text_is_a_row_between_bos_and_begin_of_image(prompt: str, tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.cond_ids(prompt)
    assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.begin_of_image_id)
    assert tokenizer.uncond_ids(len(ids))[1:-1] == [tokenizer.pad_id] * (len(ids) - 2)


@pytest.mark.parametrize(
    ("prompt", "place"),
    [("\ud800", "character 0 is the lone surrogate U\\+D800"), ("fox \udcff", "character 4 .* U\\+DCFF")],
)
def test_a_lone_surrogate_is_refused_with_its_position(prompt: str, place: str, tokenizer: PromptTokenizer) -> None:
    with pytest.raises(ValueError, match=f"a prompt must be valid Unicode; {place}"):
        tokenizer.cond_ids(prompt)


def test_the_special_tokens_are_those_of_the_published_vocabularies() -> None:
    added = json.loads((TINY / "tokenizer.json").read_text())["added_tokens"]
    published = {entry["id"]: entry["content"] for entry in added}
    assert [published[i] for i in (300, 302, 303)] == [BOS, PAD, BEGIN_OF_IMAGE]
    assert [f"{ord(c):04X}" for c in PAD if not c.isascii()] == ["FF5C", "2581", "2581", "FF5C"]


@pytest.mark.parametrize("token", [BOS, PAD, BEGIN_OF_IMAGE, "<|User|>", "<|Assistant|>"])
def test_a_vocabulary_without_a_special_token_is_refused_by_its_name(token: str, tmp_path: Path) -> None:
    added = json.loads((TINY / "tokenizer.json").read_text())["added_tokens"]
    left = [entry for entry in added if entry["content"] != token]
    folder = edit_tokenizer(TINY, tmp_path, added_tokens=left, post_processor=None)
    message = "the vocabulary of tokenizer.json has no " + token.replace("|", r"\|")
    with pytest.raises(CheckpointError, match=message):
        PromptTokenizer(folder, "janus-pro")


def test_role_tags_need_not_be_tokens_in_a_format_that_writes_roles_as_words(tmp_path: Path) -> None:
    added = json.loads((TINY / "tokenizer.json").read_text())["added_tokens"]
    folder = edit_tokenizer(TINY, tmp_path, added_tokens=[entry for entry in added if entry["content"] != "<|User|>"])
    assert PromptTokenizer(folder, "janus").cond_ids("a red cube") == PromptTokenizer(TINY, "janus").cond_ids(
        "a red cube"
    )


def test_a_damaged_or_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*tokenizer.json"):
        PromptTokenizer(tmp_path, "janus")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read as a tokenizer: "):
        PromptTokenizer(tmp_path, "janus")
    with pytest.raises(CheckpointError, match="prompt_format must be one of janus, janus-pro, got 'flow'"):
        PromptTokenizer(TINY, "flow")
