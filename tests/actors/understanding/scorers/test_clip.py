from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from transformers import AutoModel, AutoProcessor

from actors.checkpoint.open import weights_digest
from actors.errors import CheckpointError, OtherWeightsError
from actors.understanding.scorers.clip import ClipScorer
from actors.understanding.scorers.clip_checkpoint import open_clip_checkpoint
from actors.understanding.scorers.source import ScorerSource
from tests.support.clip import DIMENSIONS, NUM_TOKENS, write_clip

PROMPTS = ("a red square", "a blue circle", "a " * 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(40)]


def source_of(folder: Path, **changes: object) -> ScorerSource:
    digest = weights_digest(open_clip_checkpoint(str(folder)))
    fields = {"kind": "clip", "checkpoint": str(folder), "weights_sha256": digest, **changes}
    return ScorerSource(**fields)


def rows_of(images: list[np.ndarray]) -> list[dict[str, str]]:
    return [{"prompt": PROMPTS[index % len(PROMPTS)]} for index in range(len(images))]


def test_a_score_is_the_cosine_similarity_that_transformers_computes(folder: Path, images: list[np.ndarray]) -> None:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

    scores = ClipScorer(source_of(folder)).score(images[:5], rows_of(images[:5]))["score"]

    for image, row, score in zip(images, rows_of(images), scores, strict=False):
        inputs = processor(
            images=[Image.fromarray(image)],
            text=[row["prompt"]],
            return_tensors="pt",
            truncation=True,
            max_length=NUM_TOKENS,
        )
        with torch.no_grad():
            logits = model(**inputs).logits_per_image
        assert score == pytest.approx((logits / model.logit_scale.exp()).item(), abs=1e-5)


def test_embeddings_are_unit_vectors(folder: Path, images: list[np.ndarray]) -> None:
    columns = ClipScorer(source_of(folder, with_embeddings=True)).score(images, rows_of(images))

    embeddings = np.stack(columns["embedding"])
    assert embeddings.shape == (40, DIMENSIONS)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-6)


def test_the_same_images_get_the_same_bits_again(folder: Path, images: list[np.ndarray]) -> None:
    first, second = (ClipScorer(source_of(folder)).score(images, rows_of(images))["score"] for _ in range(2))

    assert first.tobytes() == second.tobytes()


def test_no_images_have_no_scores(folder: Path) -> None:
    assert ClipScorer(source_of(folder, with_embeddings=True)).score([], []) == {"score": [], "embedding": []}


def test_a_head_is_a_linear_layer_over_the_embedding(folder: Path, images: list[np.ndarray]) -> None:
    weight, bias = torch.randn(1, DIMENSIONS), torch.tensor([5.0])
    head = save({"linear.weight": weight, "linear.bias": bias})
    rows = rows_of(images)

    scores = ClipScorer(source_of(folder, kind="aesthetic", head=head)).score(images, rows)["score"]

    embeddings = np.stack(ClipScorer(source_of(folder, with_embeddings=True)).score(images, rows)["embedding"])
    assert scores == pytest.approx(embeddings @ weight[0].numpy() + 5, abs=1e-5)


def test_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(OtherWeightsError, match="holds other weights now"):
        ClipScorer(source_of(folder, weights_sha256="0" * 64))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"lacks 1 weights of its model, such as visual_projection\.weight"):
        ClipScorer(source_of(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_files_that_transformers_cannot_use_are_refused(tmp_path: Path, file: str) -> None:
    folder = write_clip(tmp_path / "clip")
    source = source_of(folder)
    (folder / file).write_text('{"model_type": "clip", "text_config": 7}')

    with pytest.raises(CheckpointError, match="clip cannot be loaded: "):
        ClipScorer(source)


def test_a_model_of_another_type_is_refused() -> None:
    with pytest.raises(CheckpointError, match="janus-shapes is a model of type 'multi_modality'; allowed are clip, "):
        open_clip_checkpoint("janus-shapes")


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(tmp_path: Path, missing: str) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / missing).unlink()

    with pytest.raises(CheckpointError, match="holds no"):
        open_clip_checkpoint(str(folder))
