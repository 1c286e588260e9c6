"""Runs prompts with images through the model: tower, aligner, the text model, and the head that predicts text.

A prompt is read in three parts: the system prompt, once; its images, once for all questions about them; the question.
An image's and a question's numbers do not depend on the others of a call: the tower reads images in calls of a fixed
size, and the text model keeps sequences apart (`actors/llama`).

N patches of an image, C hidden channels, V vocabulary, L layers, K key/value heads, T tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from actors.checkpoint.files import read_json
from actors.checkpoint.open import Checkpoint
from actors.device import to_compute_dtype
from actors.llama.cache import PromptState
from actors.llama.linear import MIN_ROWS, Linear
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.understanding.config import read_vision_shape
from actors.understanding.pixels import read_pixel_settings, to_pixels
from actors.understanding.prompt import ImagePrompt, QuestionTokenizer
from actors.understanding.vision import VisionEncoder
from actors.understanding.weights import BEGIN_OF_IMAGE, LM_HEAD, read_vision_weights

# Images in a call of the tower, filled up with repetitions; on a GPU a product's bits depend on its number of rows.
IMAGES_PER_CALL = {"cpu": 1, "cuda": 8}
QUESTION_CHUNK = 256  # tokens in a call of questions on a GPU, see `PackedLlama.read`
MAX_HEAD_ROWS = 64  # rows of logits at once


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadPrompt:
    """A prompt that was read: its last hidden state [C], and keys and values [L, 2, K, T, D] of images and question."""

    hidden_C: torch.Tensor
    kv_of_images: torch.Tensor
    kv_of_question: torch.Tensor

    @property
    def kv(self) -> torch.Tensor:
        """Keys and values of the whole prompt; a copy."""
        return torch.cat((self.kv_of_images, self.kv_of_question), dim=3)

    @property
    def state(self) -> PromptState:
        """What a decode loop starts from."""
        return PromptState(hidden_C=self.hidden_C, kv=self.kv)


class Reader:
    """A fetched checkpoint's eyes and its text model; `llama` is the one that an engine has already, or it is read too.

    Raises CheckpointError for a checkpoint that cannot look at images. Call it inside `torch.inference_mode`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device,
        llama: Llama | PackedLlama | None = None,
    ) -> None:
        assert checkpoint.folder is not None, f"{checkpoint.name} is not fetched"
        vision = read_vision_shape(checkpoint.config)
        self.num_patches = vision.num_tokens
        preprocessor = read_json(checkpoint.folder, "preprocessor_config.json")
        self.pixel_settings = read_pixel_settings(preprocessor, vision.image_size)
        shape = checkpoint.shape.llama
        self.tokenizer = QuestionTokenizer(checkpoint.path, checkpoint.template, vocab_size=shape.vocab_size)
        weights = read_vision_weights(checkpoint, vision, dtype=dtype, device=device, with_text_model=llama is None)
        weights = to_compute_dtype(weights)
        if llama is None:
            llama = PackedLlama(weights, shape) if device.type == "cuda" else Llama(weights, shape)
        self.llama, self.context_length = llama, shape.context_length
        self.head = Linear(weights.pop(LM_HEAD))
        own_begin_C = weights.pop(BEGIN_OF_IMAGE, llama.embedding_VC[self.tokenizer.begin_of_image_id][None])[0]
        self._begin_C, self._end_C = own_begin_C, llama.embedding_VC[self.tokenizer.end_of_image_id]
        with torch.device("meta"):
            self.encoder = VisionEncoder(vision)
        self.encoder.load_state_dict(weights, assign=True)
        self.encoder.eval().requires_grad_(False)
        self._images_per_call = IMAGES_PER_CALL[device.type]
        self.device = device
        self._read_before: tuple[tuple[int, ...], torch.Tensor] | None = None

    def read(self, prompts: Sequence[ImagePrompt], pictures: Sequence[Sequence[np.ndarray]]) -> list[ReadPrompt]:
        """Read each prompt with its pictures, uint8 [height, width, 3].

        What comes before a question is computed once for all prompts that have the same pictures (the same objects).
        """
        keys = [
            (tuple(map(id, images)), prompt.before, prompt.between)
            for prompt, images in zip(prompts, pictures, strict=True)
        ]
        first_of_key = {key: index for index, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first_of_key.values())
        embeddings = self._embed([prompts[i] for i in distinct], [pictures[i] for i in distinct])
        earlier = [self._read_system(prompts[i].before) for i in distinct]
        read = self.llama.read(embeddings, earlier)
        kv_of_key = {
            keys[index]: torch.cat((kv_before, kv), dim=3)
            for index, kv_before, (_, kv) in zip(distinct, earlier, read, strict=True)
        }
        del read, embeddings
        questions = [self._embed_ids(prompt.after) for prompt in prompts]
        kv_of_images = [kv_of_key[key] for key in keys]
        return [
            ReadPrompt(hidden_C=hidden_TC[-1], kv_of_images=before, kv_of_question=kv)
            for (hidden_TC, kv), before in zip(self.follow(questions, kv_of_images), kv_of_images, strict=True)
        ]

    def follow(
        self, embeddings: Sequence[torch.Tensor], earlier: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Short sequences after others: hidden states [T, C] and kv of each, see `Llama.read`."""
        return self.llama.read(embeddings, earlier, chunk=QUESTION_CHUNK)

    def follow_ids(self, ids: Sequence[Sequence[int]], earlier: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The hidden states [T, C] of short token sequences after others; at least two tokens each."""
        return [hidden_TC for hidden_TC, _ in self.follow([self._embed_ids(one) for one in ids], earlier)]

    def logits(self, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        """float32 [rows, V] of the next token after each hidden state [C]."""
        x_RC = torch.stack([*hidden, *hidden[:1] * (MIN_ROWS - len(hidden))])
        return torch.cat([self._head_rows(part) for part in x_RC.split(MAX_HEAD_ROWS)])[: len(hidden)]

    def encode(self, pictures: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """The aligner's output [N, C] for each picture."""
        dtype = next(self.encoder.parameters()).dtype
        embeddings: list[torch.Tensor] = []
        for start in range(0, len(pictures), self._images_per_call):
            part = pictures[start : start + self._images_per_call]
            pixels = [torch.from_numpy(to_pixels(picture, self.pixel_settings)) for picture in part]
            pixels += pixels[:1] * (self._images_per_call - len(pixels))
            embeddings += self.encoder(torch.stack(pixels).to(self.device, dtype))[: len(part)]
        return embeddings

    def _embed(self, prompts: Sequence[ImagePrompt], pictures: Sequence[Sequence[np.ndarray]]) -> list[torch.Tensor]:
        """The part of each prompt from its first image to its last, [T, C]. Every distinct picture is encoded once."""
        distinct = {id(picture): picture for images in pictures for picture in images}
        encoded = dict(zip(distinct, self.encode(list(distinct.values())), strict=True))
        embedded = []
        for prompt, images in zip(prompts, pictures, strict=True):
            if len(images) != prompt.num_images:
                raise ValueError(f"the prompt has {prompt.num_images} images, got {len(images)}")
            parts = []
            for picture, text in zip(images, (*prompt.between, ()), strict=True):
                parts += [self._begin_C[None], encoded[id(picture)], self._end_C[None], self._embed_ids(text)]
            embedded.append(torch.cat(parts))
        return embedded

    def _read_system(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Keys and values of the ids before the first image, kept from call to call."""
        if self._read_before is None or self._read_before[0] != ids:
            ((_, kv),) = self.llama.read([self._embed_ids(ids)], [None])
            self._read_before = ids, kv
        return self._read_before[1]

    def _embed_ids(self, ids: Sequence[int]) -> torch.Tensor:
        return self.llama.embedding_VC[torch.tensor(ids, dtype=torch.long, device=self.device)]

    def _head_rows(self, x_RC: torch.Tensor) -> torch.Tensor:
        num_rows = len(x_RC)
        return self.head(F.pad(x_RC, (0, 0, 0, max(0, MIN_ROWS - num_rows))))[:num_rows].float()
