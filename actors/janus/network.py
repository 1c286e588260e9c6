"""The parts of a Janus model that generation runs through."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from actors.llama.linear import Mlp
from actors.llama.model import Llama


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptState:
    """A prefilled prompt: its last hidden state [C] and its keys and values [L, 2, K, T, D]."""

    hidden_C: torch.Tensor
    kv: torch.Tensor

    @property
    def num_tokens(self) -> int:
        return self.kv.shape[3]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodeModel:
    """The language model, the head that predicts a code, and the embedding of every code."""

    llama: Llama
    head: Mlp  # [R, C] -> [R, V]
    code_embedding_VC: torch.Tensor
