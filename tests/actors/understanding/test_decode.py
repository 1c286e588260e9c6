"""Greedy decoding stops when every row has ended its sentence."""

from __future__ import annotations

import pytest
import torch

from actors.understanding.decode import decode_greedily
from actors.understanding.reader import Reader
from tests.support.checkpoints import TINY, fetched
from tests.support.looking import QUESTIONS, goldens, images

NUM_NEW = 40


@torch.inference_mode()
def test_decoding_stops_soon_after_the_last_row_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(fetched(TINY), dtype=torch.float32, device=torch.device("cpu"))
    greedy = goldens()["janus_greedy"][0, 0].tolist()
    end = greedy[3]
    monkeypatch.setattr(reader.tokenizer, "end_of_sentence_id", end)
    steps, decode = [], reader.llama.decode
    monkeypatch.setattr(reader.llama, "decode", lambda *parts: (steps.append(1), decode(*parts))[1])
    prompts = reader.read([reader.tokenizer.ask(QUESTIONS[0])], [[images()[0]]])
    assert decode_greedily(reader, prompts, NUM_NEW) == [greedy[: greedy.index(end) + 1]]
    assert len(steps) == 7  # it asks after every eighth token
