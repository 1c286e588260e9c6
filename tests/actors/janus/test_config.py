"""The shapes of published and small Janus configs, and the settings that are refused."""

from __future__ import annotations

import pytest

from actors.errors import CheckpointError
from actors.janus.config import JanusShape, VQShape, identify, read_shape
from actors.llama.config import LlamaShape
from tests.support.checkpoints import TINY, changed, fetched, published

VQ16 = VQShape(
    codebook_size=16384, code_dim=8, channels=128, channel_multipliers=(1, 1, 2, 2, 4), z_channels=256, grid_size=24
)


def config_of(model: str) -> dict:
    return published(model)[0]


def transformers_config() -> dict:
    """Janus-Pro-1B as transformers 5 writes it, less what it leaves to its defaults."""
    text = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16}
    text |= {"model_type": "llama", "vocab_size": 102400, "max_position_embeddings": 16384}
    text |= {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    vq = {"model_type": "janus_vqgan", "embed_dim": 8, "num_embeddings": 16384}
    vq |= {"projection_dim": 2048, "image_token_embed_dim": 2048}
    vision = {"model_type": "janus_vision_model", "image_size": 384}
    return {"model_type": "janus", "text_config": text, "vq_config": vq, "vision_config": vision}


@pytest.mark.parametrize("model", ["Janus-1.3B", "Janus-Pro-1B"])
def test_the_small_published_models(model: str) -> None:
    llama = LlamaShape(
        vocab_size=102400,
        hidden_size=2048,
        intermediate_size=5632,
        num_layers=24,
        num_heads=16,
        num_kv_heads=16,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        context_length=16384,
    )
    assert read_shape(config_of(model)) == JanusShape(llama=llama, vq=VQ16, head_size=2048)


def test_janus_pro_7b_uses_the_defaults_of_llama_config() -> None:
    llama = LlamaShape(
        vocab_size=102400,
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=30,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        context_length=16384,
    )
    assert read_shape(config_of("Janus-Pro-7B")) == JanusShape(llama=llama, vq=VQ16, head_size=4096)


def test_both_layouts_of_a_model_have_the_same_shape() -> None:
    assert read_shape(transformers_config()) == read_shape(config_of("Janus-Pro-1B"))


def test_all_published_models_render_384_pixels() -> None:
    for model in ("Janus-1.3B", "Janus-Pro-1B", "Janus-Pro-7B"):
        shape = read_shape(config_of(model))
        assert (shape.image_size, shape.vq.num_codes) == (384, 576)


def test_a_small_checkpoint_says_its_own_sizes() -> None:
    vq = fetched(TINY).shape.vq
    assert (vq.codebook_size, vq.channels, vq.channel_multipliers, vq.z_channels) == (64, 32, (1, 2, 1, 1, 1), 24)
    assert (vq.grid_size, vq.num_codes, vq.image_size) == (6, 36, 96)


def test_grouped_queries_and_another_rope_base_are_read() -> None:
    config = changed(config_of("Janus-Pro-1B"), "language_config.num_key_value_heads", 4)
    config = changed(config, "language_config.rope_theta", 500000)
    llama = read_shape(config).llama
    assert (llama.num_heads, llama.num_kv_heads, llama.rope_theta) == (16, 4, 500000.0)
    config = changed(transformers_config(), "text_config.rope_parameters.rope_theta", 500000)
    assert read_shape(config).llama.rope_theta == 500000.0


LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 2.0}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "language_config.rope_scaling",
            LINEAR,
            "language_config.rope_scaling.type must be 'default', the only one .* got 'linear'",
        ),
        ("language_config.rope_parameters", YARN, "rope_parameters.rope_type must be 'default', .* got 'yarn'"),
        ("language_config.attention_bias", True, "language_config.attention_bias must be False, .* got True"),
        ("language_config.mlp_bias", True, "language_config.mlp_bias must be False, .* got True"),
        ("language_config.hidden_act", "gelu", "language_config.hidden_act must be 'silu', .* got 'gelu'"),
        ("language_config.model_type", "qwen2", "language_config.model_type must be 'llama', .* got 'qwen2'"),
        (
            "language_config.hidden_size",
            "2048",
            "hidden_size must be a positive whole number .*, got '2048'",
        ),
        ("language_config.num_key_value_heads", 3, "16 attention heads must be a multiple of 3 key/value heads"),
        ("language_config.rms_norm_eps", 0, "rms_norm_eps must be a positive number of at most .*, got 0"),
        ("language_config", None, "config.json must hold an object language_config, got None"),
        ("gen_vision_config.cls", "VQ-8", "gen_vision_config.cls must be VQ-16, got 'VQ-8'"),
        (
            "gen_vision_config.params.decoder_ch_mult",
            4,
            "decoder_ch_mult must be a list of 1 to 16 positive whole numbers .*, got 4",
        ),
        ("gen_vision_config.params.ch", 40, r"channels \(40 x \[1, 1, 2, 2, 4\]\) must be multiples of 32"),
        ("gen_aligner_config.params.depth", 3, "gen_aligner_config.params.depth must be 2, .* got 3"),
        ("gen_aligner_config.params.projector_type", "linear", "projector_type must be 'mlp_gelu', .* got 'linear'"),
        ("gen_head_config", {}, "config.json must hold an object gen_head_config.params, got None"),
        ("vision_config.params.image_size", 100, "100 pixels is not a multiple of 16 pixels per code"),
    ],
)
def test_a_janus_setting_that_the_engine_does_not_implement_is_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_shape(changed(config_of("Janus-1.3B"), path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vq_config.double_latent", True, "vq_config.double_latent must be False, .* got True"),
        ("vq_config.num_res_blocks", 3, "vq_config.num_res_blocks must be 2, .* got 3"),
        ("vq_config.num_hidden_layers", 1, "vq_config.num_hidden_layers must be 2, .* got 1"),
        ("vq_config.hidden_act", "silu", "vq_config.hidden_act must be 'gelu', .* got 'silu'"),
        ("vq_config.projection_dim", 1024, "vq_config.projection_dim must be 2048, .* got 1024"),
        ("text_config.rope_scaling", LINEAR, "text_config.rope_scaling.type must be 'default'"),
    ],
)
def test_a_transformers_setting_that_the_engine_does_not_implement_is_refused(
    path: str, value: object, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_shape(changed(transformers_config(), path, value))


def test_settings_that_change_no_number_are_accepted() -> None:
    config = config_of("Janus-1.3B")
    assert config["language_config"]["_attn_implementation"] == "flash_attention_2"
    assert read_shape(changed(config, "language_config.tie_word_embeddings", True)) == read_shape(config)


def test_a_config_of_another_family_is_not_identified() -> None:
    assert identify(config_of("JanusFlow-1.3B"), None) is None
    assert identify({"model_type": "llama"}, None) is None


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_a_default_rope_scaling_changes_nothing(scaling: object) -> None:
    config = config_of("Janus-Pro-1B")
    assert read_shape(changed(config, "language_config.rope_scaling", scaling)) == read_shape(config)
    written = transformers_config()
    assert read_shape(changed(written, "text_config.rope_scaling", scaling)) == read_shape(written)


@pytest.mark.parametrize("value", [1, [], "x", [{}], True, 0.5])
@pytest.mark.parametrize(
    "path",
    [
        "language_config",
        "language_config.rope_scaling",
        "language_config.rope_parameters",
        "gen_vision_config",
        "gen_vision_config.params",
        "gen_head_config.params",
        "vision_config",
        "vision_config.params",
    ],
)
def test_a_section_that_is_no_object_is_refused_by_name(path: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"config.json must hold an object {path}, got "):
        read_shape(changed(config_of("Janus-Pro-1B"), path, value))


@pytest.mark.parametrize("value", [10**9, 10**12, 10**400, -1, 0, 0.5, float("nan"), float("inf"), "1", [1], {}, True])
@pytest.mark.parametrize(
    "path",
    [
        "language_config.num_hidden_layers",
        "language_config.max_position_embeddings",
        "language_config.hidden_size",
        "language_config.intermediate_size",
        "language_config.vocab_size",
        "language_config.num_attention_heads",
        "language_config.num_key_value_heads",
        "gen_vision_config.params.image_token_size",
        "gen_vision_config.params.n_embed",
        "vision_config.params.image_size",
    ],
)
def test_a_size_that_no_model_has_is_refused_in_one_short_sentence(path: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{path} must be a positive whole number of at most .*, got ") as caught:
        read_shape(changed(config_of("Janus-Pro-1B"), path, value))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [10**400, -1, float("nan"), float("inf"), "1", True])
def test_a_number_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"language_config.rope_theta must be a positive number of at most "):
        read_shape(changed(config_of("Janus-1.3B"), "language_config.rope_theta", value))


def test_an_image_that_does_not_fit_into_the_context_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"of 4096 pixels per side needs 65536 tokens, and a prompt 64; .* the 16384 positions"
    ):
        read_shape(changed(config_of("Janus-Pro-1B"), "vision_config.params.image_size", 4096))
