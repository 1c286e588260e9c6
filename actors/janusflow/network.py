"""JanusFlow's network: from a noisy latent, a time and a prompt to a velocity. No guidance and no solver here.

The attention is causal over prompt, time token and image tokens, so the prompt's keys and values do not depend on the
time: they are computed once, and every step attends to them. https://arxiv.org/abs/2411.07975
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, LlamaConfig, LlamaModel
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from actors.checkpoint.open import Checkpoint
from actors.checkpoint.weights import Shapes, load_weights, shapes_of
from actors.device import send
from actors.janusflow.config import TIME_SCALE, FlowShape
from actors.janusflow.packed import KernelNorm, LanguageModel, PackedPrompt, PackedRows
from actors.janusflow.uvit import PATCH_SIZE, UViTDecoder, UViTEncoder
from actors.kernels.cuda_graph import GraphPool
from actors.layers import SiLU
from actors.llama.config import LlamaShape
from actors.llama.packed import PackedLlama

# B rows, C latent channels, H x W latent positions or patches, D hidden channels, N heads, K key/value heads,
# E channels of a head, P tokens of a prompt, Q tokens of a row in one step (the time's and the image's), T = P + Q.

ATTENTION = "janusflow_own_prompt"  # the name of `attend` among transformers' attention functions
PROMPT_MULTIPLE = 64  # prompts are read in a multiple of this many tokens

# Tensors of a checkpoint that generation leaves on disk, by the prefix of their name.
NOT_NEEDED = {
    "vision_und_enc_model.": "SigLIP tower that reads images",
    "vision_und_enc_aligner.": "projection of the SigLIP tower's output",
    "beg_of_und_embed": "mark before an image that the model reads",
    "language_model.lm_head.": "head that predicts text",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptState:
    """The state of the language model after one prompt. `keys` and `values` are one tensor [K, P, E] per layer.

    `mask_QT` is added to the scores of a row that follows the prompt: 0 where its tokens may attend, else minus
    infinity. `next_position` is the position of the row's time token.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask_QT: torch.Tensor
    next_position: int


def build_network(
    weights: Mapping[str, torch.Tensor],
    shape: FlowShape,
    latent_size: int,
    *,
    is_packed: bool = False,
    graphs: GraphPool | None = None,
) -> FlowNetwork:
    """The network with the tensors that `read_weights` returns, without copying them.

    With `is_packed`, for a GPU, the project's own Llama and norms replace those of transformers, whose bytes a CPU
    keeps, and `graphs` captures the calls of the network.
    """
    network, weights = _on_meta_device(shape, latent_size), dict(weights)
    if is_packed:
        del network.language_model
        network.packed = PackedRows(PackedLlama(weights, shape.llama), network.num_tokens, graphs)
    network.load_state_dict(weights, strict=True, assign=True)
    if is_packed:
        _replace_norms(network)
    else:
        llama, device = network.language_model.model, network.vision_gen_enc_aligner.weight.device
        llama.rotary_emb = LlamaRotaryEmbedding(llama.config).to(device)
        for layer in llama.layers:
            layer.mlp.act_fn = SiLU()
    for uvit in (network.vision_gen_enc_model, network.vision_gen_dec_model):
        uvit.to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def _replace_norms(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(module, name, KernelNorm(child.weight, child.variance_epsilon))


def read_weights(checkpoint: Checkpoint, *, dtype: torch.dtype, device: str | torch.device) -> dict[str, torch.Tensor]:
    """The tensors that generation needs of a fetched checkpoint, by name. Raises CheckpointError."""
    expected = tensor_shapes(checkpoint.shape)
    return load_weights(checkpoint, expected, not_needed=NOT_NEEDED, dtype=dtype, device=device)


def tensor_shapes(shape: FlowShape) -> Shapes:
    """The name and the shape of every tensor that generation needs."""
    return shapes_of(_on_meta_device(shape, shape.latent_size))


def _on_meta_device(shape: FlowShape, latent_size: int) -> FlowNetwork:
    with torch.device("meta"):
        return FlowNetwork(shape, latent_size)


class FlowNetwork(nn.Module):
    """`(z, t, prompts) -> velocity` for latents of `latent_size` x `latent_size`. Its keys are the original ones."""

    def __init__(self, shape: FlowShape, latent_size: int) -> None:
        super().__init__()
        hidden_size = shape.llama.hidden_size
        self.grid_size = latent_size // PATCH_SIZE
        self.packed: PackedRows | None = None
        self.vision_gen_enc_model = UViTEncoder(shape)
        self.vision_gen_enc_aligner = nn.Linear(shape.encoder_channels, hidden_size)
        self.language_model = nn.ModuleDict({"model": LlamaModel(_llama_config(shape.llama))})
        self.vision_gen_dec_aligner_norm = LlamaRMSNorm(hidden_size, shape.llama.rms_norm_eps)
        self.vision_gen_dec_aligner = nn.Linear(hidden_size, shape.decoder_channels)
        self.vision_gen_dec_model = UViTDecoder(shape)

    @property
    def num_tokens(self) -> int:
        """Tokens of a row in one step: one for the time, one for each patch of the latent."""
        return 1 + self.grid_size**2

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> list[PromptState] | list[PackedPrompt]:
        """The state of each prompt, from its token ids. It does not depend on the other prompts."""
        if self.packed:
            return self.packed.read_prompts(prompts)
        return [self.read_prompt(ids) for ids in prompts]

    def read_prompt(self, ids: Sequence[int]) -> PromptState:
        """Run one prompt alone, so that its numbers do not depend on other prompts.

        It is padded after its end, which causal attention does not reach, to a length at which the bits of the products
        do not depend on the number of threads; with fewer than 4 tokens per thread they do.
        """
        device, dtype = self.vision_gen_dec_aligner_norm.weight.device, self.vision_gen_dec_aligner_norm.weight.dtype
        num_ids, num_tokens = len(ids), self.num_tokens
        filled = [*ids, *[ids[-1]] * (-num_ids % PROMPT_MULTIPLE)]
        cache = DynamicCache()
        self.language_model.model(
            input_ids=torch.tensor([filled], device=device), past_key_values=cache, use_cache=True, prompts=None
        )
        mask_QT = torch.full((num_tokens, num_ids + num_tokens), -torch.inf, dtype=dtype, device=device)
        return PromptState(
            keys=tuple(layer.keys[0, :, :num_ids].contiguous() for layer in cache.layers),
            values=tuple(layer.values[0, :, :num_ids].contiguous() for layer in cache.layers),
            mask_QT=mask_QT.triu(num_ids + 1),
            next_position=num_ids,
        )

    def forward(
        self, z_BCHW: torch.Tensor, t_B: torch.Tensor, prompts: Sequence[PromptState] | Sequence[PackedPrompt]
    ) -> torch.Tensor:
        """The velocity [B, C, H, W], float32, at the times `t_B` in [0, 1] (float64); row b follows `prompts[b]`."""
        t_B = send((t_B * TIME_SCALE).float(), self.vision_gen_dec_aligner_norm.weight.device)
        if self.packed:
            return self.packed.run(self._velocity, z_BCHW, t_B, prompts)
        return self._velocity(z_BCHW, t_B, partial(self._run_language_model, prompts))

    def _velocity(self, z_BCHW: torch.Tensor, t_B: torch.Tensor, language_model: LanguageModel) -> torch.Tensor:
        weight = self.vision_gen_dec_aligner_norm.weight
        map_BCHW, t_emb_BD = self.vision_gen_enc_model(z_BCHW.to(weight.device, weight.dtype), t_B)
        image_BQD = self.vision_gen_enc_aligner(map_BCHW.flatten(2).transpose(1, 2))
        hidden_BQD = language_model(torch.cat([t_emb_BD[:, None], image_BQD], dim=1))
        hidden_BQD = self.vision_gen_dec_aligner(self.vision_gen_dec_aligner_norm(hidden_BQD[:, 1:]))
        hidden_BDHW = hidden_BQD.unflatten(1, (self.grid_size, self.grid_size)).permute(0, 3, 1, 2)
        return self.vision_gen_dec_model(hidden_BDHW, map_BCHW, t_emb_BD).float()

    def _run_language_model(self, prompts: Sequence[PromptState], embeds_BQD: torch.Tensor) -> torch.Tensor:
        first_B = torch.tensor([prompt.next_position for prompt in prompts])
        positions_BQ = (first_B[:, None] + torch.arange(self.num_tokens)).to(embeds_BQD.device)
        return self.language_model.model(
            inputs_embeds=embeds_BQD, position_ids=positions_BQ, use_cache=False, prompts=prompts
        ).last_hidden_state


def attend(
    module: nn.Module,
    query_BNQE: torch.Tensor,
    key_BKQE: torch.Tensor,
    value_BKQE: torch.Tensor,
    attention_mask: None,
    *,
    prompts: Sequence[PromptState] | None,
    **_,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' layers call it: each row to its own prompt and itself; causal if `prompts` is None.

    It runs one row at a time, so a batch needs no padding, and the shapes that a row is computed in do not depend on
    its neighbors.
    """
    use_gqa = query_BNQE.shape[1] != key_BKQE.shape[1]
    if prompts is None:
        out_BNQE = F.scaled_dot_product_attention(query_BNQE, key_BKQE, value_BKQE, is_causal=True, enable_gqa=use_gqa)
        return out_BNQE.transpose(1, 2), None
    rows = []
    for query_NQE, key_KQE, value_KQE, prompt in zip(query_BNQE, key_BKQE, value_BKQE, prompts, strict=True):
        key_KTE = torch.cat([prompt.keys[module.layer_idx], key_KQE], dim=1)
        value_KTE = torch.cat([prompt.values[module.layer_idx], value_KQE], dim=1)
        rows.append(
            F.scaled_dot_product_attention(
                query_NQE[None], key_KTE[None], value_KTE[None], attn_mask=prompt.mask_QT, enable_gqa=use_gqa
            )
        )
    return torch.cat(rows).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


def _llama_config(shape: LlamaShape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.rms_norm_eps,
        max_position_embeddings=shape.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        attn_implementation=ATTENTION,
    )
