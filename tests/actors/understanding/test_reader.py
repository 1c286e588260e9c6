"""Questions about images give the reference's logits, answers and greedy ids, in both families and every layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.errors import CheckpointError
from actors.understanding.answers import answer_logprobs
from actors.understanding.decode import decode_greedily
from actors.understanding.reader import Reader, ReadPrompt
from tests.support.checkpoints import fetched
from tests.support.looking import (
    ANSWERS,
    INFO,
    NUM_IMAGES,
    QUESTIONS,
    TINY_OF_FAMILY,
    goldens,
    images,
    write_transformers_layout,
)

LOGITS, LOGPROBS = 5e-5, 2e-4  # tolerances
NUM_NEW = 12
ROWS = [(image, question) for image in range(NUM_IMAGES) for question in range(len(QUESTIONS))]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def reader(family: str = "janus", folder: Path | None = None) -> Reader:
    prompt_format = "janus" if family == "janus_janusstyle" else None
    checkpoint = fetched(folder or TINY_OF_FAMILY[family.split("_")[0]], prompt_format)
    return Reader(checkpoint, dtype=torch.float32, device=torch.device("cpu"))


def read(reader: Reader, rows: list[tuple[int, int]]) -> list[ReadPrompt]:
    pictures = images()
    prompts = [reader.tokenizer.ask(QUESTIONS[question]) for _, question in rows]
    return reader.read(prompts, [[pictures[image]] for image, _ in rows])


def logits_of(reader: Reader, prompts: list[ReadPrompt]) -> np.ndarray:
    return reader.logits([prompt.hidden_C for prompt in prompts]).numpy()


def assert_ids(ids: list[list[int] | None], expected: np.ndarray) -> None:
    assert ids == [[token for token in row if token != -1] for row in expected.tolist()]


@pytest.mark.parametrize("family", ["janus", "janus_janusstyle", "flow"])
def test_logits_and_greedy_ids_are_the_references(family: str) -> None:
    """Six images, three of them not square, with two questions each; for Janus with the role tags of Janus-1.3B too."""
    model = reader(family)
    prompts = read(model, ROWS)
    expected = goldens()[f"{family}_logits"].reshape(len(ROWS), -1)
    assert np.abs(logits_of(model, prompts) - expected).max() < LOGITS
    assert_ids(decode_greedily(model, prompts, NUM_NEW), goldens()[f"{family}_greedy"].reshape(len(ROWS), -1))


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_answers_have_the_references_probabilities(family: str) -> None:
    model = reader(family)
    logprobs = answer_logprobs(model, read(model, ROWS), [model.tokenizer.answer_ids(answer) for answer in ANSWERS])
    expected = goldens()[f"{family}_answer_logprobs"].reshape(len(ROWS), -1)
    assert np.abs(logprobs - expected).max() < LOGPROBS


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_a_batch_of_other_lengths_gives_the_references_padded_batch(family: str) -> None:
    model = reader(family)
    prompts = read(model, [tuple(row) for row in INFO["batch_rows_image_question"]])
    assert np.abs(logits_of(model, prompts) - goldens()[f"{family}_batch_logits"]).max() < LOGITS
    assert_ids(decode_greedily(model, prompts, NUM_NEW), goldens()[f"{family}_batch_greedy"])


@pytest.mark.parametrize("family", ["janus", "flow"])
def test_two_images_in_a_prompt_give_the_references_numbers(family: str) -> None:
    model, pictures = reader(family), images()
    prompt = model.tokenizer.read(INFO["prompts"][f"{family}_pair"]["content"])
    read = model.read([prompt], [[pictures[0], pictures[3]]])
    assert np.abs(logits_of(model, read)[0] - goldens()[f"{family}_pair_logits"]).max() < LOGITS
    assert_ids(decode_greedily(model, read, NUM_NEW), goldens()[f"{family}_pair_greedy"][None])
    with pytest.raises(ValueError, match="the prompt has 2 images, got 1"):
        model.read([prompt], [[pictures[0]]])


def test_the_transformers_layout_gives_the_same_bits(tmp_path: Path) -> None:
    rows = ROWS[:3]
    model, renamed = reader(), reader(folder=write_transformers_layout(tmp_path / "renamed"))
    assert np.array_equal(logits_of(model, read(model, rows)), logits_of(renamed, read(renamed, rows)))


def test_a_tied_text_head_is_the_table_of_embeddings(tmp_path: Path) -> None:
    folder = write_transformers_layout(tmp_path / "tied")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    model = reader(folder=folder)
    (prompt,) = read(model, ROWS[:1])
    expected = model.llama.embedding_VC @ prompt.hidden_C
    torch.testing.assert_close(model.logits([prompt.hidden_C])[0], expected, rtol=0, atol=1e-4)


def test_what_comes_before_a_question_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, num_tokens = reader(), []
    run = model.llama.read_prompt
    monkeypatch.setattr(
        model.llama, "read_prompt", lambda x_TC, kv=None: (num_tokens.append(len(x_TC)), run(x_TC, kv))[1]
    )
    read(model, ROWS[:4])
    system, image = len(model.tokenizer.ask("").before), 1 + model.num_patches + 1
    questions = [len(model.tokenizer.ask(question).after) for question in QUESTIONS]
    assert num_tokens == [system, image, image, *questions, *questions]


def test_a_checkpoint_without_settings_for_pixels_is_refused(tmp_path: Path) -> None:
    folder = write_transformers_layout(tmp_path / "renamed")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no preprocessor_config\.json"):
        reader(folder=folder)
