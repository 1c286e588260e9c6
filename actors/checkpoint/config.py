"""Reads a config.json of either layout into the shapes of `model_shape`, every default filled in. No torch, no files.

A setting that would change the numbers and that the engines do not implement is refused, before a weight is read.
"""

from __future__ import annotations

from typing import Any

from actors.checkpoint.shape import (
    NUM_RES_BLOCKS,
    VAE_DOWNSAMPLING,
    FlowShape,
    JanusShape,
    LlamaShape,
    VQShape,
)
from actors.errors import CheckpointError

_GROUP_NORM_GROUPS = 32

# What `LlamaConfig()` means where config.json says nothing: Janus-Pro-7B leaves most of its text model to these.
_LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
# Settings of a text model that the engines implement one value of.
_LLAMA_FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def identify(config: dict[str, Any]) -> tuple[str, str] | None:
    """The (family, layout) a config.json describes, or None: `janus` or `janusflow`, `original` or `transformers`."""
    if config.get("model_type") == "janus":
        return "janus", "transformers"
    if config.get("model_type") == "multi_modality" and "gen_vision_config" in config:
        return "janus", "original"
    if config.get("model_type") == "multi_modality" and "vision_gen_enc_config" in config:
        return "janusflow", "original"
    return None


def read_shape(config: dict[str, Any]) -> JanusShape | FlowShape:
    """The shape of a Janus or JanusFlow config.json of either layout. Raises CheckpointError."""
    found = identify(config)
    if found == ("janus", "original"):
        return _original_janus_shape(config)
    if found == ("janus", "transformers"):
        return _transformers_janus_shape(config)
    if found == ("janusflow", "original"):
        return _flow_shape(config)
    raise CheckpointError(f"config.json of model_type {config.get('model_type')!r} is not a Janus or JanusFlow model")


def _original_janus_shape(config: dict[str, Any]) -> JanusShape:
    llama = _llama_shape(_section(config, "language_config"), "language_config")
    vision = _section(config, "gen_vision_config")
    if vision.get("cls", "VQ-16") != "VQ-16":
        raise CheckpointError(f"gen_vision_config.cls must be VQ-16, got {vision['cls']!r}")
    params = _section(vision, "params", "gen_vision_config")
    head = _section(_section(config, "gen_head_config"), "params", "gen_head_config")
    aligner = _section(_section(config, "gen_aligner_config"), "params", "gen_aligner_config")
    _require(aligner, "projector_type", "mlp_gelu", "gen_aligner_config.params")
    _require(aligner, "depth", 2, "gen_aligner_config.params", default=1)
    multipliers = _integers(params, "decoder_ch_mult", (1, 1, 2, 2, 4), "gen_vision_config.params")
    return JanusShape(
        llama=llama,
        vq=_vq_shape(
            codebook_size=_integer(params, "image_token_size", 16384, "gen_vision_config.params"),
            code_dim=_integer(params, "n_embed", 8, "gen_vision_config.params"),
            channels=_integer(params, "ch", 128, "gen_vision_config.params"),
            channel_multipliers=multipliers,
            z_channels=_integer(params, "z_channels", 256, "gen_vision_config.params"),
            image_size=_original_image_size(config, "vision_config"),
        ),
        head_size=_integer(head, "image_token_embed", llama.hidden_size, "gen_head_config.params"),
    )


def _transformers_janus_shape(config: dict[str, Any]) -> JanusShape:
    llama = _llama_shape(_section(config, "text_config"), "text_config")
    vq = _section(config, "vq_config")
    _require(vq, "double_latent", False, "vq_config", default=False)
    _require(vq, "num_res_blocks", NUM_RES_BLOCKS, "vq_config", default=NUM_RES_BLOCKS)
    _require(vq, "num_hidden_layers", 2, "vq_config", default=2)
    _require(vq, "hidden_act", "gelu", "vq_config", default="gelu")
    for key in ("projection_dim", "image_token_embed_dim"):
        _require(vq, key, llama.hidden_size, "vq_config", default=2048)
    return JanusShape(
        llama=llama,
        vq=_vq_shape(
            codebook_size=_integer(vq, "num_embeddings", 16384, "vq_config"),
            code_dim=_integer(vq, "embed_dim", 8, "vq_config"),
            channels=_integer(vq, "base_channels", 128, "vq_config"),
            channel_multipliers=_integers(vq, "channel_multiplier", (1, 1, 2, 2, 4), "vq_config"),
            z_channels=_integer(vq, "latent_channels", 256, "vq_config"),
            image_size=_integer(config.get("vision_config") or {}, "image_size", 384, "vision_config"),
        ),
        head_size=llama.hidden_size,
    )


def _flow_shape(config: dict[str, Any]) -> FlowShape:
    llama = _llama_shape(_section(config, "language_config"), "language_config")
    enc_name, dec_name = "vision_gen_enc_config.params", "vision_gen_dec_config.params"
    enc = _section(_section(config, "vision_gen_enc_config"), "params", "vision_gen_enc_config")
    dec = _section(_section(config, "vision_gen_dec_config"), "params", "vision_gen_dec_config")
    encoder_channels = _integers(enc, "block_out_channels", (768,), enc_name)
    if len(encoder_channels) != 1:
        raise CheckpointError(f"{enc_name}.block_out_channels must hold one number, got {list(encoder_channels)}")
    for key, value in {"kernel_size": 2, "stride": 2, "padding": 0}.items():
        _require(enc, key, value, enc_name)
    for section, name in ((enc, enc_name), (dec, dec_name)):
        _require(section, "hidden_size", llama.hidden_size, name, default=2048)
        _require(section, "use_bias", True, name, default=True)
        _require(section, "use_mid_block", True, name, default=True)
    _require(dec, "upsamples", 1, dec_name, default=2)
    _require(dec, "block_out_channels", list(encoder_channels), dec_name, default=[768])
    _require(dec, "out_channels", enc.get("input_channels", 3), dec_name, default=3)
    _require(dec, "norm_eps", enc.get("norm_eps", 1e-6), dec_name, default=1e-6)
    return FlowShape(
        llama=llama,
        latent_channels=_integer(enc, "input_channels", 3, enc_name),
        latent_size=_original_image_size(config, "vision_und_enc_config") // VAE_DOWNSAMPLING,
        encoder_channels=encoder_channels[0],
        decoder_channels=_integer(dec, "in_channels", 768, dec_name),
        num_encoder_blocks=_integer(enc, "layers_in_middle", 2, enc_name),
        num_decoder_blocks=_integer(dec, "layers_in_middle", 2, dec_name),
        norm_eps=_number(enc, "norm_eps", 1e-6, enc_name),
    )


def _llama_shape(section: dict[str, Any], name: str) -> LlamaShape:
    for key, value in _LLAMA_FIXED.items():
        _require(section, key, value, name, default=value)
    values = {key: _integer(section, key, default, name) for key, default in _LLAMA_DEFAULTS.items()}
    num_heads = values["num_attention_heads"]
    num_kv_heads = _integer(section, "num_key_value_heads", num_heads, name)
    head_dim = _integer(section, "head_dim", values["hidden_size"] // num_heads, name)
    if num_heads % num_kv_heads or head_dim % 2:
        raise CheckpointError(
            f"{name}: {num_heads} attention heads must be a multiple of {num_kv_heads} key/value heads, "
            f"and a head's {head_dim} channels must be even"
        )
    return LlamaShape(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_number(section, "rms_norm_eps", 1e-6, name),
        rope_theta=_rope_theta(section, name),
        context_length=values["max_position_embeddings"],
    )


def _rope_theta(section: dict[str, Any], name: str) -> float:
    """The base of the rotary embedding, from `rope_theta` or from transformers 5's `rope_parameters`."""
    _require(section, "rope_scaling", None, name, default=None)
    parameters = section.get("rope_parameters") or {}
    _require(parameters, "rope_type", "default", f"{name}.rope_parameters", default="default")
    return _number(parameters, "rope_theta", _number(section, "rope_theta", 10000.0, name), f"{name}.rope_parameters")


def _vq_shape(*, image_size: int, **fields: Any) -> VQShape:
    multipliers = fields["channel_multipliers"]
    downsampling = 2 ** (len(multipliers) - 1)
    if any(fields["channels"] * multiplier % _GROUP_NORM_GROUPS for multiplier in multipliers):
        raise CheckpointError(
            f"the VQ decoder's channels ({fields['channels']} x {list(multipliers)}) must be multiples of "
            f"{_GROUP_NORM_GROUPS}, the number of its normalization groups"
        )
    if image_size % downsampling:
        raise CheckpointError(
            f"an image size of {image_size} pixels is not a multiple of {downsampling} pixels per code"
        )
    return VQShape(grid_size=image_size // downsampling, **fields)


def _original_image_size(config: dict[str, Any], name: str) -> int:
    """Pixels each way: the models render at the size their vision tower reads, 384 in every published checkpoint."""
    params = (config.get(name) or {}).get("params") or {}
    return _integer(params, "image_size", 384, f"{name}.params")


def _section(config: dict[str, Any], key: str, parent: str = "") -> dict[str, Any]:
    name = f"{parent}.{key}" if parent else key
    section = config.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"config.json must hold an object {name}, got {section!r}")
    return section


def _integer(section: dict[str, Any], key: str, default: int, name: str) -> int:
    value = default if section.get(key) is None else section[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{name}.{key} must be a positive whole number, got {value!r}")
    return value


def _integers(section: dict[str, Any], key: str, default: tuple[int, ...], name: str) -> tuple[int, ...]:
    values = section.get(key) or list(default)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise CheckpointError(f"{name}.{key} must be a list of positive whole numbers, got {values!r}")
    return tuple(values)


def _number(section: dict[str, Any], key: str, default: float, name: str) -> float:
    value = default if section.get(key) is None else section[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{name}.{key} must be a positive number, got {value!r}")
    return float(value)


_NO_DEFAULT = object()


def _require(section: dict[str, Any], key: str, allowed: Any, name: str, *, default: Any = _NO_DEFAULT) -> None:
    """Raise CheckpointError unless the setting, or its default where it is not set, is the one value allowed."""
    value = section.get(key, default)
    if value is _NO_DEFAULT or value != allowed:
        found = "nothing" if value is _NO_DEFAULT else repr(value)
        raise CheckpointError(f"{name}.{key} must be {allowed!r}, the only one these engines implement; got {found}")
