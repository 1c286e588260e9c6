"""The parts of a Janus model that generation runs through, and the names of their tensors in a checkpoint.

Names are those of the original layout; `original_name` turns a transformers-layout name into its original one. Every
tensor has the same shape and order in both layouts.

Shapes: R rows, L layers, K key/value heads, T tokens, D channels of a head, C hidden channels, V codebook entries.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from actors.checkpoint.open import Checkpoint
from actors.checkpoint.weights import Shapes, load_weights, shapes_of
from actors.janus.config import JanusShape
from actors.janus.decoder import VQDecoder
from actors.layers import Embedding
from actors.llama.config import is_head_tied
from actors.llama.linear import Linear, Mlp
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.llama.weights import text_model_tensors

# Tensors of a checkpoint that generation leaves on disk, by the prefix of their original-layout name.
NOT_NEEDED = {
    "vision_model.": "SigLIP tower that reads images",
    "aligner.": "projection of the SigLIP tower's output",
    "gen_vision_model.encoder.": "VQ encoder",
    "gen_vision_model.quant_conv.": "VQ encoder's last layer",
    "gen_vision_model.quantize.codebook_used": "training statistics of the codebook",
    "language_model.lm_head.": "head that predicts text",
}

TEXT_HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"

# transformers layout -> original layout; the first match wins. Both layouts number the decoder's levels from the
# lowest resolution up.
_RENAMES = [
    (r"^lm_head\.", r"language_model.lm_head."),
    (r"^model\.language_model\.", r"language_model.model."),
    (r"^model\.(vision_model|aligner)\.", r"\1."),
    (r"^model\.generation_embeddings\.", r"gen_embed."),
    (r"^model\.generation_aligner\.fc1\.", r"gen_aligner.layers.0."),
    (r"^model\.generation_aligner\.hidden_layers\.0\.", r"gen_aligner.layers.2."),
    (r"^model\.generation_head\.proj_out\.", r"gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.vision_head\.", r"gen_head.vision_head."),
    (r"^model\.vqmodel\.encoder\.", r"gen_vision_model.encoder."),
    (r"^model\.vqmodel\.decoder\.mid\.block_1\.", r"gen_vision_model.decoder.mid.0."),
    (r"^model\.vqmodel\.decoder\.mid\.attn_1\.", r"gen_vision_model.decoder.mid.1."),
    (r"^model\.vqmodel\.decoder\.mid\.block_2\.", r"gen_vision_model.decoder.mid.2."),
    (r"^model\.vqmodel\.decoder\.up\.(\d+)\.block\.", r"gen_vision_model.decoder.conv_blocks.\1.res."),
    (r"^model\.vqmodel\.decoder\.up\.(\d+)\.", r"gen_vision_model.decoder.conv_blocks.\1."),
    (r"^model\.vqmodel\.", r"gen_vision_model."),
]


class Head(Protocol):
    """What predicts a code, in two parts: the second is linear, so guidance may act between them."""

    def first(self, x_RC: torch.Tensor, /) -> torch.Tensor: ...

    def second(self, x_RI: torch.Tensor, /) -> torch.Tensor: ...


class TextHead:
    """The head that predicts text, in the two parts of a `Head`: nothing, then the product with the vocabulary."""

    def __init__(self, head: Linear) -> None:
        self.second = head

    def first(self, x_RC: torch.Tensor) -> torch.Tensor:
        return x_RC


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodeModel:
    """The language model, the head that predicts a code, and the embedding of every code."""

    llama: Llama | PackedLlama
    head: Head  # [R, C] -> [R, V]
    code_embedding_VC: torch.Tensor


def build_code_model(
    weights: MutableMapping[str, torch.Tensor],
    shape: JanusShape,
    *,
    is_packed: bool,
    cache_dtype: torch.dtype | None = None,
) -> CodeModel:
    """The code model from a checkpoint's tensors, which are taken out of `weights`; `is_packed` for a GPU."""
    llama = PackedLlama(weights, shape.llama, cache_dtype=cache_dtype) if is_packed else Llama(weights, shape.llama)
    head = Mlp(weights, "gen_head.output_mlp_projector", "gen_head.vision_head")
    aligner = Mlp(weights, "gen_aligner.layers.0", "gen_aligner.layers.2")
    # The model's input for a code is a function of the code alone: a table replaces an MLP per step.
    return CodeModel(llama=llama, head=head, code_embedding_VC=aligner(weights.pop("gen_embed.weight")))


def read_weights(
    checkpoint: Checkpoint, *, dtype: torch.dtype, device: str | torch.device, with_text_head: bool = False
) -> dict[str, torch.Tensor]:
    """The tensors that generation needs of a fetched checkpoint, by original-layout name. Raises CheckpointError.

    `with_text_head` also reads the matrix that predicts text, TEXT_HEAD; it may be tied to the input embeddings.
    """
    expected, llama = tensor_shapes(checkpoint.shape), checkpoint.shape.llama
    if with_text_head:
        expected[TEXT_HEAD] = (llama.vocab_size, llama.hidden_size)
    return load_weights(
        checkpoint,
        expected,
        not_needed=NOT_NEEDED,
        tied={TEXT_HEAD: EMBEDDING} if is_head_tied(checkpoint.config, checkpoint.layout) else {},
        rename=original_name if checkpoint.layout == "transformers" else str,
        rename_in_adapters=original_name,
        dtype=dtype,
        device=device,
    )


def original_name(name: str) -> str:
    """The original-layout name of a transformers-layout tensor; a name of neither layout comes back unchanged."""
    for pattern, replacement in _RENAMES:
        renamed, num_matches = re.subn(pattern, replacement, name)
        if num_matches:
            return renamed
    return name


def tensor_shapes(shape: JanusShape) -> Shapes:
    """The original-layout name and the shape of every tensor that generation needs."""
    with torch.device("meta"):
        return shapes_of(_Tensors(shape))


class _Tensors(nn.Module):
    """The layout of a checkpoint as modules. They only name tensors: a CodeModel computes with packed ones."""

    def __init__(self, shape: JanusShape) -> None:
        super().__init__()
        hidden, vq = shape.llama.hidden_size, shape.vq
        self.language_model = nn.ModuleDict({"model": text_model_tensors(shape.llama)})
        self.gen_embed = Embedding(vq.codebook_size, vq.code_dim)
        layers = nn.Sequential(nn.Linear(vq.code_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.gen_aligner = nn.ModuleDict({"layers": layers})
        self.gen_head = nn.ModuleDict(
            {
                "output_mlp_projector": nn.Linear(hidden, shape.head_size),
                "vision_head": nn.Linear(shape.head_size, vq.codebook_size),
            }
        )
        self.gen_vision_model = VQDecoder(vq)
