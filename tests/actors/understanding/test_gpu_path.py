"""Looking as a GPU does it, on a CPU in Triton's interpreter: the reference's logits and greedy ids, in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.llama import packed
from actors.llama.packed import PackedLlama
from actors.understanding import reader as reader_module
from actors.understanding.config import read_vision_shape
from actors.understanding.decode import decode_greedily
from actors.understanding.reader import Reader
from actors.understanding.weights import TEXT_MODEL, read_vision_weights
from tests.support.checkpoints import TINY, fetched
from tests.support.looking import QUESTIONS, goldens, images
from tests.support.triton import DEVICE, needs_triton

NUM_NEW = 2  # tokens: the interpreter takes seconds for each


@needs_triton
@pytest.mark.slow
@torch.inference_mode()
def test_logits_and_greedy_ids_are_the_references_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK", 64)
    monkeypatch.setattr(reader_module, "QUESTION_CHUNK", 48)
    checkpoint = fetched(TINY)
    weights = read_vision_weights(
        checkpoint, read_vision_shape(checkpoint.config), dtype=torch.float32, device=DEVICE, with_text_model=True
    )
    text_model = {name: tensor for name, tensor in weights.items() if name.startswith(TEXT_MODEL)}
    llama = PackedLlama(text_model, checkpoint.shape.llama)
    reader = Reader(checkpoint, dtype=torch.float32, device=DEVICE, llama=llama)
    prompt, pictures = reader.tokenizer.ask(QUESTIONS[0]), images()[3:5]
    together = reader.read([prompt] * 2, [[picture] for picture in pictures])
    logits = reader.logits([one.hidden_C for one in together])
    assert np.abs(logits.cpu().numpy() - goldens()["janus_logits"][3:5, 0]).max() < 5e-5
    assert decode_greedily(reader, together, NUM_NEW) == goldens()["janus_greedy"][3:5, 0, :NUM_NEW].tolist()

    (alone,) = reader.read([prompt], [[pictures[1]]])
    assert torch.equal(alone.hidden_C, together[1].hidden_C)
    assert torch.equal(alone.kv, together[1].kv)
