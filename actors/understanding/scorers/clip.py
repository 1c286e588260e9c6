"""CLIP and SigLIP as scorers: how similar an image is to its prompt, and a linear head over the image's embedding.

Both are Hugging Face transformers' models, in float32. An image's numbers may depend on the size of its batch in their
last bits, so batches have a fixed size: the last one of a part is filled up with copies.

N images, D dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from actors.checkpoint.open import check_digest, fetch_checkpoint
from actors.device import find_device
from actors.errors import CheckpointError, is_out_of_memory, one_line, reason_line
from actors.understanding.scorers.clip_checkpoint import open_clip_checkpoint
from actors.understanding.scorers.source import Columns, ScorerSource

BATCH = 16


class ClipScorer:
    """`score` is the cosine similarity of image and prompt, -1 to 1, or the head's number; `embedding` the unit vector.

    Prompts longer than the model's context are cut. Raises CheckpointError.
    """

    def __init__(self, source: ScorerSource) -> None:
        self._device, _ = find_device()
        opened = open_clip_checkpoint(
            source.checkpoint, revision=source.revision, storage_options=source.storage_options
        )
        checkpoint = fetch_checkpoint(opened)
        check_digest(checkpoint, source.weights_sha256, since="the scores were begun")
        self._model, self._processor = _load(source.checkpoint, checkpoint.path)
        self._model = self._model.eval().to(self._device)
        self._max_tokens: int = self._model.config.text_config.max_position_embeddings
        self._with_embeddings = source.with_embeddings
        self._head = read_head(source.head).to(self._device) if source.kind == "aesthetic" else None

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> Columns:
        batches = [
            self._embed(list(images[start : start + BATCH]), [row["prompt"] for row in rows[start : start + BATCH]])
            for start in range(0, len(images), BATCH)
        ]
        if not batches:
            return {"score": [], **({"embedding": []} if self._with_embeddings else {})}
        images_ND, texts_ND = (torch.cat(parts) for parts in zip(*batches, strict=True))
        if self._head is None:
            scores_N = (images_ND * texts_ND).sum(dim=-1)
        else:
            scores_N = self._head(images_ND)
        columns = {"score": scores_N.cpu().numpy()}
        return columns | ({"embedding": list(images_ND.cpu().numpy())} if self._with_embeddings else {})

    def _embed(self, images: list[np.ndarray], prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of the images and of their prompts, float32 [N, D]."""
        num_copies = BATCH - len(images)
        inputs = self._processor(
            images=[Image.fromarray(image) for image in (*images, *images[:1] * num_copies)],
            text=[*prompts, *prompts[:1] * num_copies],
            padding="max_length",
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._device)
        found = self._model(**inputs)
        return F.normalize(found.image_embeds[: len(images)]), F.normalize(found.text_embeds[: len(images)])


def _load(name: str, folder: Path) -> tuple[Any, Any]:
    """The model and its processor. transformers fills in random numbers for weights that a file lacks."""
    try:
        model, found = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # every kind, for a file that is damaged or belongs to another model
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{name} cannot be loaded: {reason_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"{name} lacks {len(missing)} weights of its model, such as {one_line(missing[0])}")
    return model, processor


class LinearHead:
    """A linear layer from a unit vector to one number, such as LAION's aesthetic predictor."""

    def __init__(self, weight_1D: torch.Tensor, bias_1: torch.Tensor) -> None:
        self._weight_1D, self._bias_1 = weight_1D, bias_1

    def to(self, device: torch.device) -> LinearHead:
        return LinearHead(self._weight_1D.to(device), self._bias_1.to(device))

    def __call__(self, images_ND: torch.Tensor) -> torch.Tensor:
        return F.linear(images_ND, self._weight_1D, self._bias_1)[:, 0]


def read_head(data: bytes) -> LinearHead:
    """The tensors of a head that `check_head` has seen."""
    tensors = {name.rpartition(".")[2]: tensor.float() for name, tensor in load(data).items()}
    return LinearHead(tensors["weight"], tensors["bias"].reshape(1))
