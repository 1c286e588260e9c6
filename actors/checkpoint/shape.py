"""The shapes of the model families as small records: what the loading code and the engines both read. No torch."""

from __future__ import annotations

from dataclasses import dataclass

NUM_RES_BLOCKS = 2  # per level of the VQ decoder, plus one; fixed in VQ-16
VAE_DOWNSAMPLING = 8  # pixels per latent, each way


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaShape:
    """The text model. `num_kv_heads` is below `num_heads` with grouped queries; `context_length` counts positions."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    context_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VQShape:
    """The VQ decoder and its codebook; an image is `grid_size` x `grid_size` codes.

    `channel_multipliers` run from the full resolution down, as in the config; the decoder walks them backwards.
    """

    codebook_size: int
    code_dim: int
    channels: int
    channel_multipliers: tuple[int, ...]
    z_channels: int
    grid_size: int

    @property
    def num_codes(self) -> int:
        return self.grid_size**2

    @property
    def image_size(self) -> int:
        """Pixels each way."""
        return self.grid_size << (len(self.channel_multipliers) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusShape:
    """Janus and Janus-Pro. `head_size` is the width between the generation head's two layers."""

    llama: LlamaShape
    vq: VQShape
    head_size: int

    @property
    def image_size(self) -> int:
        """Pixels each way."""
        return self.vq.image_size


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowShape:
    """JanusFlow: latents of `latent_channels` x `latent_size` x `latent_size`, a quarter as many image tokens.

    `encoder_channels` is the width of the shallow U-ViT encoder and of its skip; the decoder works on
    `decoder_channels + encoder_channels`. The time embedding is as wide as the text model.
    """

    llama: LlamaShape
    latent_channels: int
    latent_size: int
    encoder_channels: int
    decoder_channels: int
    num_encoder_blocks: int
    num_decoder_blocks: int
    norm_eps: float

    @property
    def num_image_tokens(self) -> int:
        return (self.latent_size // 2) ** 2

    @property
    def image_size(self) -> int:
        """Pixels each way."""
        return self.latent_size * VAE_DOWNSAMPLING
