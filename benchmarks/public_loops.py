"""The engines' opponents: the algorithms of the public scripts, and transformers' `generate`.

Written for the comparison, following `generation_inference.py` and `demo/app_janusflow.py` of
https://github.com/deepseek-ai/Janus, over transformers' Llama and its Janus modules. Nothing is omitted and nothing is
added: one prompt repeated, guidance rows in the batch, a key/value cache that grows by concatenation (Janus) or the
whole sequence again at every step (JanusFlow), one decode of all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import DynamicCache

from actors.janus.config import JanusShape
from actors.janus.network import original_name
from actors.janusflow.config import FlowShape
from actors.janusflow.network import FlowNetwork
from actors.layers import to_uint8

# B images, 2B rows, N codes of an image, V codebook entries, C hidden channels, P prompt tokens, Q image tokens.


class JanusLoop:
    """The public script's loop, and `generate`, on one transformers model with the given original-layout weights."""

    def __init__(self, shape: JanusShape, weights: Mapping[str, torch.Tensor], special_ids: Mapping[str, int]) -> None:
        dtype, device = weights["gen_embed.weight"].dtype, weights["gen_embed.weight"].device
        torch.set_default_dtype(dtype)  # not made in float32 first, which of 7 billion numbers no GPU has room for
        try:
            with device:
                self.model = transformers.JanusForConditionalGeneration(_janus_config(shape)).to(dtype).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        names = [name for name in self.model.state_dict() if original_name(name) in weights]
        state = {name: weights[original_name(name)] for name in names}
        self.model.load_state_dict(state, strict=False, assign=True)
        self.num_codes, self.device = shape.vq.num_codes, device
        self.pad_id = special_ids["pad"]
        self.model.generation_config.bos_token_id = special_ids["bos"]
        self.model.generation_config.pad_token_id = special_ids["pad"]
        self.model.generation_config.top_k = 0  # its default of 50 is not Janus's sampling
        self.model.generation_config.generation_kwargs = {"boi_token_id": special_ids["begin_of_image"]}

    def public_script(self, ids: list[int], num_images: int, cfg_weight: float, *, greedy: bool = False) -> np.ndarray:
        """Pixels, uint8 [B, H, W, 3]; `greedy` takes the most probable codes and returns those, [B, N]."""
        parts = self.model.model
        ids_RP = torch.tensor([ids] * (2 * num_images), device=self.device)
        ids_RP[1::2, 1:-1] = self.pad_id
        x_RTC, cache = parts.language_model.get_input_embeddings()(ids_RP), DynamicCache()
        codes_BN = torch.zeros(num_images, self.num_codes, dtype=torch.long, device=self.device)
        for step in range(self.num_codes):
            hidden_RTC = parts.language_model(
                inputs_embeds=x_RTC, past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits_RV = parts.generation_head(hidden_RTC[:, -1])
            cond_BV, uncond_BV = logits_RV[0::2], logits_RV[1::2]
            logits_BV = uncond_BV + cfg_weight * (cond_BV - uncond_BV)
            probs_BV = torch.softmax(logits_BV, dim=-1)
            codes_B = probs_BV.argmax(-1) if greedy else torch.multinomial(probs_BV, num_samples=1).squeeze(-1)
            codes_BN[:, step] = codes_B
            x_RTC = self.model.prepare_embeddings_for_image_generation(codes_B.repeat_interleave(2)[:, None])
        return codes_BN.cpu().numpy() if greedy else self._pixels(codes_BN)

    def generate(self, ids: list[int], num_images: int, cfg_weight: float, *, greedy: bool = False) -> np.ndarray:
        """The same of `JanusForConditionalGeneration.generate`, which keeps its cache static by itself."""
        ids_BP = torch.tensor([ids] * num_images, device=self.device)
        codes_BN = self.model.generate(
            ids_BP,
            attention_mask=torch.ones_like(ids_BP),
            generation_mode="image",
            guidance_scale=cfg_weight,
            do_sample=not greedy,
        )
        return codes_BN.cpu().numpy() if greedy else self._pixels(codes_BN)

    def _pixels(self, codes_BN: torch.Tensor) -> np.ndarray:
        decoded = self.model.model.vqmodel.decode(codes_BN)
        return to_uint8(decoded).cpu().numpy()


class FlowLoop:
    """The public demo's loop: both rows of every image through the whole sequence at every step."""

    def __init__(
        self, network: FlowNetwork, shape: FlowShape, vae_folder: Path, pad_id: int, dtype: torch.dtype
    ) -> None:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.network, self.shape, self.pad_id, self.dtype = network, shape, pad_id, dtype
        self.device = network.vision_gen_dec_aligner.weight.device
        llama = network.language_model.model
        config = transformers.LlamaConfig(**llama.config.to_dict() | {"attn_implementation": "sdpa"})
        with torch.device("meta"):
            self.llama = transformers.LlamaModel(config)
        self.llama.load_state_dict(llama.state_dict(), assign=True)
        self.llama.rotary_emb = llama.rotary_emb
        self.vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=dtype, local_files_only=True).to(self.device)

    def public_demo(self, ids: list[int], num_images: int, cfg_weight: float, num_steps: int) -> np.ndarray:
        """Pixels, uint8 [B, H, W, 3]. `ids` are bos and the prompt; the time's embedding follows them."""
        z_BCHW, network = self._noise(num_images), self.network
        ids_RP = torch.tensor([ids] * (2 * num_images), device=self.device)
        ids_RP[num_images:, 1:] = self.pad_id
        mask_RT = torch.ones(2 * num_images, len(ids) + network.num_tokens, dtype=torch.long, device=self.device)
        mask_RT[num_images:, 1 : len(ids)] = 0
        prompt_RPC = self.llama.get_input_embeddings()(ids_RP)
        position_RT = torch.arange(mask_RT.shape[1], device=self.device).expand(mask_RT.shape)
        for step in range(num_steps):
            t_R = torch.full((2 * num_images,), step / num_steps * 1000, device=self.device)
            map_RCHW, t_emb_RC = network.vision_gen_enc_model(torch.cat([z_BCHW, z_BCHW]).to(self.dtype), t_R)
            image_RQC = network.vision_gen_enc_aligner(map_RCHW.flatten(2).transpose(1, 2))
            hidden_RTC = self.llama(
                inputs_embeds=torch.cat([prompt_RPC, t_emb_RC[:, None], image_RQC], dim=1),
                attention_mask=mask_RT,
                position_ids=position_RT,
                use_cache=False,
            ).last_hidden_state
            hidden_RQC = hidden_RTC[:, -image_RQC.shape[1] :]
            hidden_RQC = network.vision_gen_dec_aligner(network.vision_gen_dec_aligner_norm(hidden_RQC))
            grid_RCHW = hidden_RQC.unflatten(1, (network.grid_size, network.grid_size)).permute(0, 3, 1, 2)
            v_RCHW = network.vision_gen_dec_model(grid_RCHW, map_RCHW, t_emb_RC).float()
            v_cond, v_uncond = v_RCHW.chunk(2)
            z_BCHW = z_BCHW + (v_uncond + cfg_weight * (v_cond - v_uncond)) / num_steps
        decoded = self.vae.decode((z_BCHW / self.vae.config.scaling_factor).to(self.dtype)).sample
        return to_uint8(decoded).cpu().numpy()

    def _noise(self, num_images: int) -> torch.Tensor:
        size = self.network.grid_size * 2
        return torch.randn(num_images, self.shape.latent_channels, size, size, device=self.device)


def _janus_config(shape: JanusShape) -> transformers.JanusConfig:
    llama, vq = shape.llama, shape.vq
    text: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.intermediate_size,
        "num_hidden_layers": llama.num_layers,
        "num_attention_heads": llama.num_heads,
        "num_key_value_heads": llama.num_kv_heads,
        "max_position_embeddings": llama.context_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": llama.rope_theta},
    }
    # Its reader of images is not part of generation: as small as it can be.
    vision = {
        "model_type": "janus_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": vq.grid_size * 16,
        "patch_size": 16,
        "projection_dim": llama.hidden_size,
    }
    codes = {
        "model_type": "janus_vqgan",
        "embed_dim": vq.code_dim,
        "num_embeddings": vq.codebook_size,
        "latent_channels": vq.z_channels,
        "base_channels": vq.channels,
        "channel_multiplier": list(vq.channel_multipliers),
        "projection_dim": llama.hidden_size,
        "image_token_embed_dim": llama.hidden_size,
        "num_patches": vq.grid_size,
    }
    config = transformers.JanusConfig(
        text_config=text, vision_config=vision, vq_config=codes, tie_word_embeddings=False
    )
    config.vision_config.num_image_tokens = vq.num_codes
    return config
